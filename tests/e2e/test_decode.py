"""Decoding sessions through a real server: the client's branches, limits, and what they leave."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from headstream.client import Client
from server_process import Server, running_server

PROMPT = [2, 40, 41, 42, 43]
FLAGS = ["--max-branches", "4", "--max-session-tokens", "200", "--dtype", "float32"]


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    with running_server(tiny_model, *FLAGS) as server:
        yield server


@pytest.fixture
def client(running: Server) -> Generator[Client]:
    with Client(running.address) as client:
        yield client


def generated_row(client: Client, token_ids: list[int]) -> np.ndarray:
    """The row behind a text that is read as a prompt."""
    [step] = client.generate(token_ids, logits="full", max_new_tokens=1, ignore_eos=True)
    assert isinstance(step.logits, np.ndarray)
    return step.logits


def test_open_append_fork_roll_back_close(client: Client) -> None:
    with client.decode(PROMPT) as d:
        assert d.token_ids == PROMPT
        assert np.array_equal(d.logits, generated_row(client, PROMPT))
        rows = d.append([7, 8, 9])
        assert rows.shape == (3, 420)
        for i in range(3):
            assert np.array_equal(rows[i], generated_row(client, [*PROMPT, 7, 8, 9][: 6 + i]))
        twin = d.fork()
        d.rollback(6)
        assert np.array_equal(d.logits, rows[0])
        twin.append([10])
        d.append([11])
        assert twin.token_ids == [*PROMPT, 7, 8, 9, 10]
        assert d.token_ids == [*PROMPT, 7, 11]
        assert np.array_equal(d.logits, generated_row(client, d.token_ids))
        d.rollback(2)
        assert np.array_equal(d.logits, generated_row(client, PROMPT[:2]))
        twin.close()
        assert d.length == 2
