"""Decoding sessions through a real server: branches, rows, order, and what breaks a rule."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headstream.client import (
    AsyncClient,
    Branch,
    Client,
    InvalidArgument,
    ResourceExhausted,
    TopLogits,
)
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from server_process import Server, running_server

D_VOCAB = 420
PROMPT = [2, 40, 41, 42, 43]
FLAGS = ["--max-branches", "4", "--max-session-tokens", "100", "--max-all-session-tokens", "150"]


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    with running_server(tiny_model, "--dtype", "float32", *FLAGS) as server:
        yield server


@pytest.fixture
def client(running: Server) -> Generator[Client]:
    with Client(running.address) as client:
        yield client


def prompt_row(client: Client, token_ids: list[int]) -> np.ndarray:
    """The row behind a text that is read as a prompt."""
    [step] = client.generate(token_ids, logits="full", max_new_tokens=1, ignore_eos=True)
    assert isinstance(step.logits, np.ndarray)
    return step.logits


def raw(running: Server, moves: Iterable[pb.DecodeRequest]) -> Any:
    """A session without the client."""
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    return stub.Decode(iter(moves), timeout=60)


def opening(**fields: Any) -> pb.DecodeRequest:
    fields.setdefault("prompt", types_pb2.Input(token_ids=types_pb2.TokenIds(ids=PROMPT)))
    return pb.DecodeRequest(id=100, open=pb.DecodeOpen(**fields))


def append(branch: int, *token_ids: int) -> pb.DecodeRequest:
    return pb.DecodeRequest(append=pb.DecodeAppend(branch=branch, token_ids=token_ids))


def fork(branch: int) -> pb.DecodeRequest:
    return pb.DecodeRequest(fork=pb.DecodeFork(branch=branch))


def rollback(branch: int, length: int) -> pb.DecodeRequest:
    return pb.DecodeRequest(rollback=pb.DecodeRollback(branch=branch, length=length))


def close(branch: int) -> pb.DecodeRequest:
    return pb.DecodeRequest(close=pb.DecodeClose(branch=branch))


def test_open_append_fork_roll_back_close(client: Client) -> None:
    with client.decode(PROMPT) as d:
        assert (d.token_ids, d.length, d.fingerprint.model) == (PROMPT, 5, "tiny")
        assert np.array_equal(d.logits, prompt_row(client, PROMPT))
        rows = d.append([7, 8, 9])
        assert rows.shape == (3, D_VOCAB)
        for i in range(3):
            assert np.array_equal(rows[i], prompt_row(client, [*PROMPT, 7, 8, 9][: 6 + i]))
        twin = d.fork()
        d.rollback(6)
        assert np.array_equal(d.logits, rows[0])
        twin.append([10])
        d.append([11])
        assert twin.token_ids == [*PROMPT, 7, 8, 9, 10]
        assert np.array_equal(twin.logits, prompt_row(client, twin.token_ids))
        assert np.array_equal(d.logits, prompt_row(client, [*PROMPT, 7, 11]))
        d.rollback(2)  # the row of a prompt's token was never sent: it is asked for
        assert np.array_equal(d.logits, prompt_row(client, PROMPT[:2]))
        twin.close()
        with pytest.raises(ValueError, match="branch is closed"):
            twin.append([1])
        assert d.length == 2
    with pytest.raises(ValueError, match="closed"):
        d.append([1])


def test_random_moves_of_several_branches(client: Client) -> None:
    rng = random.Random(5)
    with client.decode(PROMPT) as d:
        branches: list[Branch[np.ndarray]] = [d]
        for _ in range(120):
            branch = rng.choice(branches)
            kind = rng.random()
            if kind < 0.25:
                branch.rollback(rng.randint(1, branch.length))
            elif kind < 0.4 and len(branches) < 4:
                branches.append(branch.fork())
            elif kind < 0.5 and branch is not d:
                branch.close()
                branches.remove(branch)
            elif branch.length < 20:
                branch.append([rng.randrange(D_VOCAB) for _ in range(rng.randint(1, 4))])
            if branch in branches:
                assert np.array_equal(branch.logits, prompt_row(client, branch.token_ids))


def test_text_prompts_top_logits_chosen_and_log_probabilities(client: Client) -> None:
    with (
        client.decode("The chicken") as full,
        client.decode("The chicken", logits="top", top_logits=3) as top,
        client.decode("The chicken", logits=[9, 3], logprobs=True) as chosen,
    ):
        assert top.token_ids == full.token_ids == client.tokenize("The chicken").token_ids
        order = np.argsort(-full.logits, kind="stable")[:3]
        assert isinstance(top.logits, TopLogits)
        assert top.logits.token_ids.tolist() == order.tolist()
        assert np.array_equal(top.logits.values, full.logits[order])
        expected = full.logits[[9, 3]] - np.log(np.exp(full.logits.astype(np.float64)).sum())
        np.testing.assert_allclose(chosen.logits, expected, atol=1e-5)
        rows = top.append([5, 6])
        assert rows.token_ids.shape == rows.values.shape == (2, 3)
        assert np.array_equal(rows.values[1], top.logits.values)


def test_several_branches_move_at_once(client: Client) -> None:
    with client.decode(PROMPT) as d:
        branches = [d.fork() for _ in range(3)]
        rows = d.append_many(branches, [[7], [8, 9], [10]])
        assert [len(row) for row in rows] == [1, 2, 1]
        for branch in branches:
            assert np.array_equal(branch.logits, prompt_row(client, branch.token_ids))


async def test_async_branches_move_side_by_side(running: Server, client: Client) -> None:
    async with AsyncClient(running.address) as asynchronous:
        async with asynchronous.decode(PROMPT) as d:
            assert np.array_equal(d.logits, prompt_row(client, PROMPT))
            twins = [await d.fork() for _ in range(3)]
            await asyncio.gather(*(twin.append([7 + i]) for i, twin in enumerate(twins)))
            await twins[1].rollback(3)
            for twin in (d, *twins):
                assert np.array_equal(twin.logits, prompt_row(client, twin.token_ids))
            await twins[0].close()
            with pytest.raises(InvalidArgument) as caught:
                await twins[1].rollback(4)
            assert caught.value.field == "rollback.length"
            with pytest.raises(InvalidArgument):  # the session is over
                await d.append([1])
            with pytest.raises(ValueError, match="branch is closed"):
                await d.append([1])
        with pytest.raises(ValueError, match="closed"):
            await d.append([1])


def test_moves_may_be_sent_ahead_of_their_answers(running: Server, client: Client) -> None:
    """Half-closed at once: everything sent before is answered, then the session ends well."""
    moves = [opening(), append(0, 7), fork(0), append(1, 8, 9), append(0, 10), rollback(1, 7)]
    moves += [append(1, 11), fork(1), close(0), append(2, 12)]
    for i, move in enumerate(moves):
        move.id = 10 * i
    answers = list(raw(running, moves))
    assert sorted(answer.id for answer in answers) == [10 * i for i in range(10)]
    by_branch = {n: [a.id for a in answers if a.branch == n] for n in range(3)}
    assert by_branch == {0: [0, 10, 40, 80], 1: [20, 30, 50, 60], 2: [70, 90]}
    lengths = {answer.id: answer.length for answer in answers}
    assert [lengths[10 * i] for i in range(10)] == [5, 6, 6, 8, 7, 7, 8, 8, 0, 9]
    last = next(answer for answer in answers if answer.id == 90)
    [logits] = last.logits
    row = np.frombuffer(logits.values.data, "<f4")
    assert np.array_equal(row, prompt_row(client, [*PROMPT, 7, 8, 11, 12]))


def test_the_end_of_the_last_branch_ends_the_session(running: Server) -> None:
    ended = threading.Event()

    def moves() -> Generator[pb.DecodeRequest]:
        yield from (opening(), fork(0), close(0), close(1))
        ended.wait(10)  # not half-closed

    assert len(list(raw(running, moves()))) == 4
    ended.set()


@pytest.mark.parametrize(
    ("moves", "code", "message"),
    [
        ([append(0, 1)], "INVALID_ARGUMENT", "open: the first move must be open"),
        ([opening(prompt=types_pb2.Input())], "INVALID_ARGUMENT", "open.prompt: set text"),
        ([opening(max_tokens=101)], "INVALID_ARGUMENT", r"open.max_tokens: 101 is not in \[1, 100"),
        ([opening(max_tokens=4)], "INVALID_ARGUMENT", "open.prompt: has 5 tokens; max_tokens is 4"),
        ([opening(model="nobody")], "NOT_FOUND", "no model of this name"),
        ([opening(), opening()], "INVALID_ARGUMENT", "open: the session is open already"),
        ([opening(), pb.DecodeRequest()], "INVALID_ARGUMENT", "move: is not set"),
        ([opening(), append(1, 7)], "INVALID_ARGUMENT", "append.branch: there is no open branch 1"),
        ([opening(), fork(3)], "INVALID_ARGUMENT", "fork.branch: there is no open branch 3"),
        ([opening(), fork(0), close(0), append(0, 7)], "INVALID_ARGUMENT", "append.branch: there"),
        ([opening(), append(0)], "INVALID_ARGUMENT", "append.token_ids: is empty"),
        ([opening(), append(0, 1, 420)], "INVALID_ARGUMENT", r"append.token_ids\[1\]: 420 is not"),
        (
            [opening(max_tokens=6), append(0, 7, 8)],
            "INVALID_ARGUMENT",
            "append.token_ids: 2 tokens behind 5 make 7; a branch may hold 6",
        ),
        ([opening(), rollback(0, 0)], "INVALID_ARGUMENT", r"rollback.length: 0 is not in \[1, 5\]"),
        ([opening(), rollback(0, 6)], "INVALID_ARGUMENT", r"rollback.length: 6 is not in \[1, 5\]"),
        (
            [opening(), *[fork(0)] * 4],
            "RESOURCE_EXHAUSTED",
            "the session has 4 branches; max_branches is 4",
        ),
        (
            [opening(), fork(0), append(0, *[7] * 60), append(1, *[8] * 60)],
            "RESOURCE_EXHAUSTED",
            "the session would hold 125 tokens; max_session_tokens is 100",
        ),
    ],
)
def test_what_breaks_a_rule_ends_the_session_behind_what_went_before(
    running: Server, moves: list[pb.DecodeRequest], code: str, message: str
) -> None:
    answers: list[pb.DecodeResponse] = []
    with pytest.raises(grpc.RpcError, match=message) as caught:
        answers.extend(raw(running, moves))
    error: Any = caught.value
    assert error.code().name == code
    assert len(answers) == len(moves) - 1


def test_all_sessions_together_are_bounded_and_closing_one_makes_room(client: Client) -> None:
    with client.decode([5] * 90):
        with pytest.raises(ResourceExhausted, match="would hold 165 tokens; max_all_session_tok"):
            client.decode([6] * 75)
        with client.decode([6] * 50) as other:
            other.append([1] * 10)
    with client.decode([6] * 90) as d:
        assert d.length == 90
    limits = client.model().limits
    assert (limits.max_branches, limits.max_session_tokens) == (4, 100)
    assert (limits.max_all_session_tokens, limits.session_idle_seconds) == (150, 300.0)
    assert client.model().can("Decode")
