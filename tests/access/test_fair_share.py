"""Tenants share a real engine: what a flood of one does to the request of another."""

from __future__ import annotations

from pathlib import Path

from headstream.client import Client
from server_process import running_server
from tokens_of_callers import make_token

FLOOD = 60
NEW_TOKENS = 100


def test_a_flood_does_not_hold_up_the_request_of_another(tiny_model: Path, tmp_path: Path) -> None:
    """Of its own tenant it does, which is the control. The engine says how long each waited."""
    (alice, first), (bob, second) = make_token("alice"), make_token("bob")
    file = tmp_path / "tokens.toml"
    file.write_text(first + second)
    flags = ["--tokens", str(file), "--max-num-seqs", "4", "--max-queued-requests", "400"]
    with (
        running_server(tiny_model, *flags, stderr=tmp_path / "log") as server,
        Client(server.address, token=alice) as flooding,
        Client(server.address, token=bob) as other,
    ):
        other.models()  # connected before the flood
        *flood, last = [
            flooding.generate("The chicken", max_new_tokens=NEW_TOKENS, ignore_eos=True)
            for _ in range(FLOOD + 1)
        ]
        single = other.generate("The chicken", max_new_tokens=NEW_TOKENS, ignore_eos=True)
        for stream in (single, *flood, last):
            assert len(list(stream)) == NEW_TOKENS
    assert single.timings is not None
    assert last.timings is not None
    assert single.timings.queue_ns < last.timings.queue_ns / 4
