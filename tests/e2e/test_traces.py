"""Traces: an application, a server and a collector, each a real one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headstream.client import Client
from server_process import Server, running_server
from tokens_of_callers import make_token
from trace_collector import Collector, Span, running_collector

APPLICATION = Path(__file__).parents[1] / "traced_application.py"
SECRET = "The chicken crossed"  # what the application asks about
UNSAMPLED_TRACE = f"{0xABCDEF:032x}"
GENERATE = "headstream.v1.LogitsService/Generate"
ENGINE = ("queue", "prefill", "decode")


@dataclass
class Run:
    """What an application, a server and a collector have left behind."""

    collector: Collector
    told: dict[str, Any]  # by the application: the results of its calls
    log: list[dict[str, Any]]  # of the server

    def call(self, scenario: str, method: str = GENERATE, index: int = 0) -> tuple[Span, Span]:
        """The client's span of a call of a scenario, and the server's."""
        [root] = self.collector.find(name=scenario, service="application")
        client = self.collector.find(name=method, parent_id=root.span_id, kind="CLIENT")[index]
        [server] = self.collector.find(parent_id=client.span_id)
        assert (client.service, server.service) == ("application", "headstream")
        assert (server.name, server.kind) == (method, "SERVER")
        assert {client.trace_id, server.trace_id} == {root.trace_id}
        return client, server

    def engine(self, server: Span, sequence: int = 0) -> list[Span]:
        """The spans of one sequence of a call, in order."""
        found = self.collector.find(parent_id=server.span_id)
        return [each for each in found if each.attributes["headstream.sequence"] == sequence]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Run]:
    log = tmp_path_factory.mktemp("traces") / "log"
    flags = ["--log-format", "json", "--max-num-batched-tokens", "512", "--otlp-endpoint"]
    with running_collector() as (collector, url):
        with running_server(tiny_model, *flags, url, stderr=log) as server:
            command = [sys.executable, str(APPLICATION), server.address, url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr
            assert server.health()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        yield Run(collector, json.loads(done.stdout), lines)


@pytest.mark.parametrize(
    ("scenario", "steps", "cached"),
    [("generate", 2, 0), ("again", 1, 768)],  # 1,000 tokens: 512 and 488; three cached chunks
)
def test_a_call_is_one_trace_whose_parts_add_up(
    run: Run, scenario: str, steps: int, cached: int
) -> None:
    client, server = run.call(scenario)
    queue, prefill, decode = run.engine(server)
    assert (queue.name, prefill.name, decode.name) == ENGINE
    assert (queue.end_ns, prefill.end_ns) == (prefill.start_ns, decode.start_ns)
    # Two readings of two clocks are between the spans of the engine and those of the calls.
    assert client.holds(server)
    assert all(server.holds(each, slack_ns=1_000_000) for each in (queue, prefill, decode))
    # The engine has told the same span of time to the caller.
    assert decode.end_ns - prefill.start_ns == run.told[scenario]["ns"]
    assert min(each.seconds for each in (queue, prefill, decode)) > 0
    assert prefill.attributes["headstream.steps"] == steps
    assert prefill.attributes["headstream.cached_tokens"] == cached
    assert decode.attributes["headstream.tokens"] == run.told[scenario]["steps"] == 8
    assert decode.attributes["headstream.finish"] == "length"


def test_what_the_spans_of_a_call_say(run: Run) -> None:
    client, server = run.call("generate")
    rpc = {
        "rpc.system": "grpc",
        "rpc.service": "headstream.v1.LogitsService",
        "rpc.method": "Generate",
        "rpc.grpc.status_code": 0,
    }
    [line] = [line for line in run.log if line.get("trace_id") == server.trace_id]
    assert line["span_id"] == server.span_id
    assert rpc.items() <= client.attributes.items()
    assert server.attributes == rpc | {
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 8,
        "headstream.request_id": line["request_id"],
        "headstream.reason": "OK",
        "headstream.sequences": 1,
    }
    assert not client.failed
    assert not server.failed


def test_every_kind_of_call_has_its_spans(run: Run) -> None:
    _, server = run.call("continuations")
    for sequence in range(3):
        assert [span.name for span in run.engine(server, sequence)] == [*ENGINE]
    for scenario, method, num_texts in (
        ("embed", "EmbeddingsService/Embed", 2),
        ("score", "LogitsService/Score", 1),
        ("session", "LogitsService/Decode", 1),
        ("asynchronous", "EmbeddingsService/Embed", 1),
        ("asynchronous", "LogitsService/Decode", 1),
    ):
        client, server = run.call(scenario, f"headstream.v1.{method}")
        assert client.holds(server)
        assert server.attributes["headstream.sequences"] == num_texts
        for sequence in range(num_texts):
            assert [span.name for span in run.engine(server, sequence)] == ["queue", "prefill"]
    client, server = run.call("asynchronous")
    assert client.holds(server)
    assert [span.name for span in run.engine(server)] == [*ENGINE]


def test_a_bulk_stream_shows_its_first_texts_alone(run: Run) -> None:
    _, server = run.call("bulk", "headstream.v1.EmbeddingsService/EmbedStream")
    assert server.attributes["headstream.sequences"] == run.told["bulk"] == 30
    assert len(run.collector.find(parent_id=server.span_id)) == 2 * 16


@pytest.mark.parametrize(
    ("scenario", "index", "code", "reason"),
    [
        ("unknown_model", 0, 5, "MODEL_NOT_FOUND"),
        ("refused", 0, 3, "INVALID_FIELD"),
        ("closed", 0, 1, "CANCELLED"),
        ("forgotten", 0, 1, "CANCELLED"),
        ("asynchronous", 1, 1, "CANCELLED"),
    ],
)
def test_a_call_that_fails(run: Run, scenario: str, index: int, code: int, reason: str) -> None:
    """What the caller did is an error of the client's span, and none of the server's."""
    client, server = run.call(scenario, index=index)
    assert (client.failed, server.failed) == (True, False)
    assert client.attributes["rpc.grpc.status_code"] == code
    assert server.attributes["rpc.grpc.status_code"] == code
    assert server.attributes["headstream.reason"] == reason
    if code == 1:
        *_, decode = run.engine(server)
        assert (decode.name, decode.attributes["headstream.finish"]) == ("decode", "left")
    else:
        assert run.engine(server) == []


def test_a_caller_who_does_not_want_a_trace_gets_none(run: Run) -> None:
    assert run.told["unsampled"]["steps"] == 8
    assert run.collector.find(trace_id=UNSAMPLED_TRACE) == []
    assert [line["code"] for line in run.log if line.get("trace_id") == UNSAMPLED_TRACE] == ["OK"]


def test_nothing_private_leaves_and_probes_are_no_calls(run: Run) -> None:
    sent = b"".join(run.collector.messages)
    assert b"chicken" not in sent
    assert run.told["generate"]["text"].encode() not in sent
    assert b"grpc.health" not in sent
    assert b"queue" in sent, "the control: it would be seen"
    longest = max(len(str(value)) for span in run.collector.spans for value in span.attributes)
    assert longest < 100, "no list of tokens"


@contextmanager
def traced(model: Path, log: Path, url: str, *flags: str) -> Generator[Server]:
    common = ("--log-format", "json", "--otlp-endpoint", url)
    with running_server(model, *common, *flags, stderr=log) as server:
        yield server


def test_a_caller_without_traces_begins_one_which_names_the_tenant(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that dies is the server's fault. The variables say what the service is called."""
    token, entry = make_token("alice")
    (tmp_path / "tokens.toml").write_text(entry)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "models-of-ours")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    flags = ["--tokens", str(tmp_path / "tokens.toml"), "--engine-restarts", "0"]
    with (
        running_collector() as (collector, url),
        traced(tiny_model, tmp_path / "log", url, *flags) as server,
        Client(server.address, token=token) as client,
    ):
        generation = client.generate(SECRET, max_new_tokens=1900, ignore_eos=True)
        next(generation)
        [engine] = server.engines()
        engine.kill()
        with pytest.raises(Exception, match=r"engine|went on|elsewhere|stream"):
            list(generation)
        collector.wait_for(lambda: bool(collector.find(name=GENERATE)))
        [span] = collector.find(name=GENERATE)
        assert token.encode() not in b"".join(collector.messages)
    assert (span.service, span.parent_id) == ("models-of-ours", "")
    assert span.attributes["headstream.tenant"] == "alice"
    assert span.attributes["headstream.reason"] == "STREAM_CUT"


@contextmanager
def nobody() -> Generator[str]:
    yield "http://127.0.0.1:9"


@contextmanager
def mute() -> Generator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("collector", [nobody, mute])
def test_a_dead_collector_costs_spans_and_nothing_else(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collector: Callable[[], Any],
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    log = tmp_path / "log"
    with collector() as url, traced(tiny_model, log, url) as server:
        for _ in range(3):
            assert len(list(server.generate(4))) == 6
        deadline = time.monotonic() + 60
        while "spans are lost" not in log.read_text():
            assert time.monotonic() < deadline, "nobody complains"
            assert len(list(server.generate(1))) == 3
            time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines].count("spans are lost") == 1, "a minute apart"


def test_without_the_extra_it_is_refused_and_without_the_setting_not_imported() -> None:
    serve = (
        "sys.argv[1:] = ['serve', *sys.argv[1:]]; from headstream.server.cli import main; main()"
    )
    blocked = f"import sys; sys.modules['opentelemetry'] = None; {serve}"
    command = [sys.executable, "-c", blocked, "--otlp-endpoint", "http://localhost:4317"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "otlp_endpoint" in done.stderr
    assert "headstream[otel]" in done.stderr
    code = (
        "import sys, headstream.server.front\n"
        "from headstream.client import Client\n"
        "Client('localhost:1').close()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
