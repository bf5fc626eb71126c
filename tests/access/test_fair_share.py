"""One tenant floods a real server, another asks once."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headstream.client import Client
from server_process import Server, running_server
from tokens_of_callers import make_token

FLOOD = 60
NEW_TOKENS = 60


@dataclass
class Shared:
    """A server of four slots, and two tokens."""

    server: Server
    alice: str
    bob: str
    done: list[str] = field(default_factory=list[str])


@pytest.fixture
def shared(tiny_model: Path, tmp_path: Path) -> Generator[Shared]:
    (alice, first), (bob, second) = make_token("alice"), make_token("bob")
    file = tmp_path / "tokens.toml"
    file.write_text(first + second)
    flags = ["--tokens", str(file), "--max-num-seqs", "4", "--max-queued-requests", "400"]
    with running_server(tiny_model, *flags, stderr=tmp_path / "log") as server:
        yield Shared(server, alice, bob)


def ask(shared: Shared, client: Client, label: str) -> None:
    for _ in client.generate("The chicken", max_new_tokens=NEW_TOKENS, ignore_eos=True):
        pass
    shared.done.append(label)


def flood(shared: Shared) -> None:
    with Client(shared.server.address, token=shared.alice) as client:
        ask(shared, client, "flood")


@pytest.mark.parametrize("other", ["bob", "alice"])
def test_a_flood_does_not_hold_up_the_request_of_another(shared: Shared, other: str) -> None:
    """Of its own tenant it does, which is the control."""
    threads = [threading.Thread(target=flood, args=(shared,)) for _ in range(FLOOD)]
    with Client(shared.server.address, token=getattr(shared, other)) as client:
        client.models()  # connected before it counts
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not shared.done:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        waiting = shared.server.metrics()
        before = len(shared.done)
        ask(shared, client, "single")
    behind = shared.done.index("single") - before
    for thread in threads:
        thread.join()
    assert len(shared.done) == FLOOD + 1, str(waiting)
    # Three slots go on while it runs in the fourth: each may end one request, or two; and some more
    # where a busy machine lets its thread wait.
    if other == "bob":
        assert behind <= FLOOD // 4
    else:
        assert behind > FLOOD // 2
