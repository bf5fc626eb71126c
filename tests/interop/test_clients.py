"""Cases of gRPC's own interop suite, over our services: each client, direct and through Envoy."""

from __future__ import annotations

import base64
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import interop_requests as make
from headstream.client import Client
from interop_judge import Expected, InteropTable, Seen, Served, interop_program, judge, observe
from replicas import GENERATE, Replica

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
PATHS = [*(str(ROOT / part) for part in ("client", "proto", "server", "model", "tests"))]
PYTHON = {"PYTHONPATH": ":".join([*PATHS, str(FOLDER)])}
INFER = "inference.GRPCInferenceService/ModelStreamInfer"

Run = Callable[[str, str], dict[str, Seen]]  # a client's program, by address and token


@pytest.fixture(scope="session")
def expected(served: Served) -> Expected:
    """What the client of this project gets from the server itself."""
    with Client(served.replica.server.address, token=served.token) as client:
        steps = client.generate(
            make.TEXT, max_new_tokens=make.SHORT, frequency_penalty=2.0, ignore_eos=True
        )
        return Expected(
            vector=base64.b64encode(client.embed(make.TEXT).tobytes()).decode(),
            tokens=[step.token_id for step in steps],
            large=len(client.tokenize(make.LARGE)),
        )


def node_program() -> str:
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "@grpc").exists():
        pytest.skip("there is no Node.js, or not its packages; make setup")
    return node


@pytest.fixture
def run(client: str, cases: Path) -> Run:
    """The program of a client."""
    program = FOLDER / f"{client}_cases.py"
    given = [str(cases)]
    match client:
        case "node":
            command = [node_program(), str(FOLDER / "node_cases.mjs")]
            given = [str(ROOT / "proto"), str(cases)]
        case "tritonclient":
            command = [interop_program("python"), str(program)]
        case "grpcurl":
            command = [sys.executable, str(program), interop_program("grpcurl")]
        case _:
            command, given = [sys.executable, str(program)], []
    environment = {"PYTHONPATH": ""} if client == "tritonclient" else PYTHON
    return lambda address, token: observe([*command, address, token, *given], environment)


def cancelled(replica: Replica) -> float:
    counts = replica.server.metrics()
    return sum(counts.get(("requests_total", "CANCELLED", name), 0) for name in (GENERATE, INFER))


@pytest.mark.parametrize("way", ["direct", "Envoy"])
@pytest.mark.parametrize("client", ["python_sync", "python_aio", "grpcurl", "node", "tritonclient"])
def test_a_client_sees_what_every_client_sees(
    *,
    client: str,
    way: str,
    run: Run,
    served: Served,
    expected: Expected,
    interop_table: InteropTable,
    request: pytest.FixtureRequest,
) -> None:
    assert len(set(expected.tokens)) > 1, "tokens that all are one tell nothing of their order"
    replica, token = served.replica, served.token
    direct = way == "direct"
    address = replica.server.address if direct else request.getfixturevalue("behind_envoy")
    before = cancelled(replica)
    verdicts = judge(run(address, token), expected.of(client))
    end = time.monotonic() + 30
    while cancelled(replica) == before and time.monotonic() < end:
        time.sleep(0.05)
    if cancelled(replica) == before:
        verdicts["cancel"] = "the server did not notice"
    interop_table.columns[f"{client.replace('_', ' ')}, {way}"] = verdicts
    wrong = {case: verdict for case, verdict in verdicts.items() if verdict not in {"ok", "-"}}
    assert wrong == {}
    assert [verdicts[case] for case in ("unary", "server_stream", "cancel")] == ["ok"] * 3


@pytest.mark.parametrize("client", ["python_sync"])
def test_a_wrong_token_is_seen(run: Run, served: Served, expected: Expected) -> None:
    """Negative control: without a token that the server knows nearly all cases fail."""
    verdicts = judge(run(served.replica.server.address, "hs_wrong"), expected.of("python_sync"))
    passed = {case for case, verdict in verdicts.items() if verdict == "ok"}
    assert passed == {"wrong_token", "health", "unknown_method", "too_large"}


def test_a_broken_table_is_seen() -> None:
    """Negative control: a value and a code that differ, and a case that is missing."""
    expected = {
        "unary": ("OK", "AAAA"),
        "health": ("OK", "SERVING"),
        "gzip": ("OK", 1),
        "bidi": ("OK", 1),
    }
    seen: dict[str, Seen] = {
        "unary": {"code": "OK", "value": "AAAB"},
        "health": {"code": "UNAVAILABLE", "value": None},
        "gzip": {"code": "OK", "value": 1},
    }
    verdicts = judge(seen, expected)
    assert verdicts["unary"].endswith("instead of OK, AAAA")
    assert verdicts["health"].endswith("instead of OK, SERVING")
    assert (verdicts["gzip"], verdicts["bidi"]) == ("ok", "-")
