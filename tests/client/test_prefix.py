"""`for_prefix`: the header of calls whose texts begin alike."""

from __future__ import annotations

import re

import pytest

from client_messages import vectors
from headstream.client import AsyncClient, Client
from scripted_server import Script

BEGINNING = "You are a helpful assistant. " * 10  # 290 characters
KEY = "headstream-prefix"


def sent(script: Script) -> object:
    return script.metadata[-1].get(KEY)


@pytest.fixture
def client(script: Script):
    script.embed = lambda request, context: vectors([1])
    with Client(script.address, token="secret") as client:
        yield client


def header(client: Client, script: Script, text, **options) -> object:
    client.for_prefix(text, **options).embed("a")
    assert script.metadata[-1]["authorization"] == "Bearer secret"
    return sent(script)


def test_texts_that_begin_alike_have_one_value(client: Client, script: Script) -> None:
    first = header(client, script, BEGINNING + "What is a head?")
    assert isinstance(first, str)
    assert re.fullmatch(r"[0-9a-f]{32}", first), "nothing of the text itself"
    assert header(client, script, BEGINNING + "Who reads streams?") == first
    assert header(client, script, "Another" + BEGINNING) != first
    assert header(client, script, BEGINNING + "What is a head?", length=300) != first


@pytest.mark.parametrize(
    ("one", "alike", "another"),
    [
        (list(range(300)), [*range(256), 7], [9, *range(299)]),
        (
            [{"role": "system", "content": BEGINNING}, {"role": "user", "content": "a"}],
            [{"role": "system", "content": BEGINNING}, {"role": "user", "content": "b"}],
            [{"role": "user", "content": BEGINNING}, {"role": "user", "content": "a"}],
        ),
        ([1, 2], [1, 2], [12]),
        ("", "", "a"),
    ],
)
def test_ids_and_chats_have_beginnings_too(
    client: Client, script: Script, one, alike, another
) -> None:
    value = header(client, script, one)
    assert header(client, script, alike) == value
    assert header(client, script, another) != value


def test_without_it_nothing_is_sent(client: Client, script: Script) -> None:
    client.for_prefix("a")
    client.embed("a")
    assert sent(script) is None


def test_a_length_of_nothing_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="length: 0 is less than 1"):
        client.for_prefix("a", length=0)


async def test_the_async_client_sends_the_same(client: Client, script: Script) -> None:
    value = header(client, script, BEGINNING)
    async with AsyncClient(script.address) as other:
        await other.for_prefix(BEGINNING).embed("a")
        assert sent(script) == value
        await other.embed("a")
        assert sent(script) is None
