"""Whatever is sent to a real server, it answers within the closed table of codes, and lives on."""

from __future__ import annotations

import random
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import psutil
import pytest

from broken_frames import UNIMPLEMENTED, call_that_is_no_text, conversation, say
from fuzzed_calls import DEADLINE, INTERNAL_TEXT, Fuzzed, Metadata
from fuzzed_requests import serialized
from fuzzed_server import FLAGS, all_are_counted, fuzzed_server, good_answers, good_requests
from fuzzed_values import DECODER
from good_calls import good
from outcome import Table
from served_methods import SERVER, path
from server_process import Server, running_server, save_tiny_model
from tiny_models import save_tiny
from tiny_tokenizers import word_piece_tokenizer
from tokens_of_callers import bearer, make_token

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A decoder and an encoder."""
    encoder = save_tiny("bert", tmp_path_factory.mktemp("encoder"))
    word_piece_tokenizer().save(str(encoder / "tokenizer.json"))
    return [save_tiny_model(tmp_path_factory.mktemp("decoder")), encoder]


def test_every_method(checkpoints: list[Path], tmp_path: Path, table: Table, long: bool) -> None:
    share = 2500 if long else 140
    with fuzzed_server(checkpoints, tmp_path) as fuzzed:
        with good_requests(fuzzed.server.address, []) as equal:
            fuzzed.fuzz(SERVER, share)
        all_are_counted(fuzzed, 2 * (1 + len(equal)))
    _record(table, "requests made and damaged", fuzzed, equal)
    assert fuzzed.sent > (50_000 if long else 2_500)
    assert fuzzed.codes["OK"] > fuzzed.sent / 10, "nothing gets through"
    assert fuzzed.codes["INVALID_ARGUMENT"] > fuzzed.sent / 10


def test_every_method_where_tokens_are_asked_for(
    checkpoints: list[Path], tmp_path: Path, table: Table, long: bool
) -> None:
    share = 280 if long else 28
    entries = {name: make_token(name, *scopes) for name, scopes in _TENANTS.items()}
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("\n".join(entry for _, entry in entries.values()))
    whole, narrow = ([bearer(token)] for token, _ in entries.values())

    def metadata(rng: random.Random) -> Metadata:
        odd = "".join(chr(rng.randint(32, 126)) for _ in range(rng.randrange(40)))
        return rng.choice([whole, narrow, [], [("authorization", odd), ("x-request-id", odd)]])

    flags = ("--tokens", str(tokens))
    with fuzzed_server(
        checkpoints, tmp_path, *flags, metadata=metadata, good_metadata=whole
    ) as fuzzed:
        with good_requests(fuzzed.server.address, whole) as equal:
            fuzzed.fuzz(SERVER, share)
        all_are_counted(fuzzed, 2 * (1 + len(equal)))
    _record(table, "requests with and without tokens", fuzzed, equal)
    refused = fuzzed.codes["UNAUTHENTICATED"] + fuzzed.codes["PERMISSION_DENIED"]
    assert refused > fuzzed.sent / 4
    assert fuzzed.codes["OK"] > 0


_TENANTS = {"whole": (), "narrow": ("--scope", "model")}


def test_broken_frames(checkpoints: list[Path], tmp_path: Path, table: Table, long: bool) -> None:
    count = 4000 if long else 200
    rng = random.Random(20261127)
    with (
        fuzzed_server(checkpoints, tmp_path) as fuzzed,
        good_requests(fuzzed.server.address, []) as equal,
    ):
        answered = 0
        for _ in range(count):
            method = rng.choice(list(SERVER))
            data = conversation(rng, f"/{path(method)}", serialized(method)[0][0])
            heard = say(fuzzed.server.address, data)
            answered += bool(heard)
            assert not INTERNAL_TEXT.search(heard.decode("latin-1")), data.hex()
        _wait_for_no_connections(fuzzed.server)
    table.add(
        f"broken HTTP/2: {len(equal):,} good calls beside it",
        count,
        sum(equal),
        equal.count(False),
    )
    assert answered > count / 2
    assert equal
    assert all(equal)


def test_a_path_that_is_no_text(checkpoints: list[Path], tmp_path: Path) -> None:
    """It would end the loop in which grpc.aio takes calls, and go unseen while a call is open."""
    [opened, moved, *_] = good("LogitsService/Decode")
    log, moves = tmp_path / "log", SimpleQueue[bytes | None]()
    with running_server(checkpoints[0], *FLAGS, name=DECODER, stderr=log) as server:
        with grpc.insecure_channel(server.address) as channel:
            expected = good_answers(channel, [])
            both: Any = channel.stream_stream("/headstream.v1.LogitsService/Decode")
            session = both(iter(moves.get, None), timeout=DEADLINE)
            moves.put(opened.SerializeToString())
            next(session)
            for number in range(2, 5):
                heard = say(server.address, call_that_is_no_text(), UNIMPLEMENTED)
                assert UNIMPLEMENTED in heard
                moved.id = number
                moves.put(moved.SerializeToString())
                next(session)
                with grpc.insecure_channel(server.address) as another:
                    assert good_answers(another, []) == expected
            moves.put(None)
            assert session.code() is grpc.StatusCode.OK
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert "has ended by itself" not in log.read_text()


def _wait_for_no_connections(server: Server) -> None:
    """Those of the callers that left are closed; the good one's may be there."""
    port = int(server.address.rpartition(":")[2])
    end = time.monotonic() + 60
    while (
        len(
            [
                each
                for each in psutil.Process(server.process.pid).net_connections("tcp")
                if each.laddr.port == port and each.status != psutil.CONN_LISTEN
            ]
        )
        > 2
    ):
        assert time.monotonic() < end, "connections are kept"
        time.sleep(0.2)


def _record(table: Table, what: str, fuzzed: Fuzzed, equal: list[bool]) -> None:
    codes = ", ".join(f"{count:,} {code}" for code, count in fuzzed.codes.most_common())
    table.add(
        f"{what} ({codes}); {len(equal):,} good calls beside them",
        fuzzed.sent,
        fuzzed.sent + sum(equal),
        equal.count(False),
    )
    assert fuzzed.longest < DEADLINE + 1
    assert equal
    assert all(equal)


def test_the_judges_see_what_they_look_for() -> None:
    """Negative control."""
    for text in (
        "Unexpected <class 'ValueError'>: secret",
        'File "/work/server.py", line 3',
        "KeyError: 'x'",
        "/tmp/model/config.json",
    ):
        assert INTERNAL_TEXT.search(text)
    assert not INTERNAL_TEXT.search("prompt: 3 tokens; the limit is 2")
