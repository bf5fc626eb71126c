"""The Ray Serve application: two replicas behind Ray's own gRPC port.

It needs `ray[serve]`, half a gigabyte: `make ray` runs this in an environment of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
import yaml

import ray_cluster
import tiny_tokenizers
from headstream.client import AsyncClient, InvalidArgument
from headstream.server.errors import ConfigError
from headstream.server.listener import contract
from headstream.server.ray.replica import BOUNDED, check_bounded, replica_settings
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from outcome import Table
from ray_cluster import Cluster, MiB, memory, metrics, total
from replica_clients import Clients
from replica_load import TEXT, Answers, Calls, Load
from replicas import EMBED, shares
from server_process import running_server
from tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

D_VOCAB = 32_768  # a full row takes 128 KiB
ROWS = 1900  # of a stream that nobody reads: 237 MiB
MOST, LEAST = 64 * MiB, 128 * MiB  # growth of a replica, and of one without a bound


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ray", reason="ray[serve] is not installed: make ray")
    directory = tmp_path_factory.mktemp("wide-model")
    save_tiny("gemma3", directory, vocab_size=D_VOCAB)
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def settings(checkpoint: Path) -> dict[str, Any]:
    return {
        "models": [f"tiny={checkpoint}"],
        "threads": 1,
        "dtype": "float32",
        "kv_cache_bytes": 64 * MiB,
    }


@pytest.fixture(scope="module")
def answers(checkpoint: Path) -> Answers:
    """Of a server without Ray."""
    flags = ("--dtype", "float32", "--kv-cache-bytes", str(64 * MiB))
    with running_server(checkpoint, *flags) as server:
        return asyncio.run(Answers.of(server.address))


@pytest.fixture(scope="module")
def cluster(settings: dict[str, Any], answers: Answers) -> Generator[Cluster]:
    with (
        tempfile.TemporaryDirectory(
            prefix="ray-"
        ) as directory,  # short, as paths of sockets must be
        ray_cluster.running_cluster(Path(directory)) as running,
    ):
        running.deploy(settings)
        yield running


async def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.05)


async def test_every_kind_of_call_is_answered(cluster: Cluster, answers: Answers) -> None:
    async with AsyncClient(cluster.address) as client:
        assert (await client.embed(TEXT)).tobytes() == answers.vector
        assert [model.name for model in await client.models()] == ["tiny"]
        async with client.decode(TEXT) as session:  # a stream both ways
            await session.append([5])
            assert session.logits.shape == (D_VOCAB,)
        with pytest.raises(InvalidArgument) as caught:
            await anext(client.generate(TEXT, temperature=-1.0))
    error = caught.value  # its details travel in the trailers
    assert error.details.field == "sampling.temperature"
    assert error.details.request_id


async def test_both_replicas_are_asked(cluster: Cluster, table: Table) -> None:
    replicas = cluster.replicas()
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        calls = Calls(channel)
        key = ("requests_total", "OK", EMBED)
        before = [metrics(replica).get(key, 0.0) for replica in replicas]
        for _ in range(200):
            await calls.embed()
        part = shares(before, [metrics(replica).get(key, 0.0) for replica in replicas])
    table.add(f"balance, Ray Serve: {part[0]:.0%} of calls at one of two", 0, 200, 0)
    assert 0.38 <= part[0] <= 0.62


async def test_a_cancelled_stream_frees_the_engine(cluster: Cluster) -> None:
    replicas = cluster.replicas()
    async with full_stream(cluster) as call:
        await call.read()
        await until(lambda: total(replicas, "sequences_running", "tiny") == 1)
        before = total(replicas, "aborts_total", "tiny", "cancelled")
        call.cancel()
        await until(lambda: total(replicas, "sequences_running", "tiny") == 0)
        assert total(replicas, "aborts_total", "tiny", "cancelled") == before + 1


async def test_a_redeploy_loses_nothing(
    cluster: Cluster, settings: dict[str, Any], answers: Answers, table: Table
) -> None:
    changed = settings | {"retry_after": 2.0}
    async with Load(cluster.address, answers) as load:
        await asyncio.sleep(2)
        await asyncio.to_thread(cluster.deploy, changed)
        await asyncio.sleep(2)
    table.add("redeploy, Ray Serve", 1, load.total - load.failed, load.failed)
    assert load.total > 500
    assert load.failed == 0, load.failures


async def test_a_killed_replica_loses_no_stream(
    cluster: Cluster, answers: Answers, table: Table
) -> None:
    streams = Clients(cluster.address, answers, resume=3)
    unary = Clients(cluster.address, answers, resume=0)

    async def kill() -> None:
        await asyncio.sleep(2)
        victim = cluster.replicas()[0]
        engines = victim.children()
        victim.kill()
        await until(lambda: not any(map(psutil.Process.is_running, engines)))
        await until(lambda: cluster.running != 2)
        await cluster.wait_until_running()
        streams.ending = unary.ending = True

    await asyncio.gather(streams.run(0, 4), unary.run(3, 0), kill())
    lost = streams.failures.total() + unary.failures.total()
    what = f"{unary.embedded:,} Embed, {streams.streamed:,} streams ({streams.broken} resumed)"
    table.add(f"kill -9, Ray Serve: {what}", 1, unary.embedded + streams.streamed, lost)
    assert streams.failures.total() == 0, streams.failures
    assert streams.broken > 0, "no stream was under way when the replica died"
    # Ray's proxy resets those under way, which no client may repeat: one for each worker at most.
    assert unary.failures.total() <= 3, unary.failures


async def test_a_reader_who_stalls_takes_no_memory(cluster: Cluster, table: Table) -> None:
    growth, code = await stalled(cluster)
    table.add(f"stalled reader of 237 MiB, Ray Serve: replicas +{growth // MiB} MiB", 1, 0, 0)
    assert growth < MOST
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "it is ended in the end (stalled_stream)"


async def test_without_the_bound_it_does(
    cluster: Cluster, settings: dict[str, Any], table: Table
) -> None:
    """Negative control: Ray's own default takes all that there is."""
    name = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
    await asyncio.to_thread(cluster.deploy, settings, "unbounded_ray_app:build", **{name: "1"})
    growth, code = await stalled(cluster)
    table.add(f"control: the same with a thread of its own: +{growth // MiB} MiB", 1, 0, 0)
    assert growth > LEAST
    assert code is grpc.StatusCode.OK, "all was made although nothing was read"


@asynccontextmanager
async def full_stream(cluster: Cluster, num_rows: int = ROWS) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
        request = pb.GenerateRequest(
            prompt=types_pb2.Input(text=TEXT),
            stop=pb.StopConditions(max_new_tokens=num_rows, ignore_eos=True),
            logits=pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL),
        )
        yield stub.Generate(request, timeout=300)


async def stalled(cluster: Cluster) -> tuple[int, grpc.StatusCode]:
    """What the replicas grow by, at most, while a stream is not read; and how it ends."""
    replicas = cluster.replicas()
    # What a first stream takes is no growth. It is short: without a bound much more than was read
    # would have been made when it is left, and would be in the memory before.
    async with full_stream(cluster, 30) as first:
        assert await _end(first) is grpc.StatusCode.OK
    await until(lambda: total(replicas, "sequences_running", "tiny") == 0)
    before = most = memory(replicas)
    async with full_stream(cluster) as call:
        await call.read()
        await until(lambda: total(replicas, "sequences_running", "tiny") == 1)
        while total(replicas, "sequences_running", "tiny"):  # until all is made, or it is ended
            await asyncio.sleep(0.2)
            most = max(most, memory(replicas))
        most = max(most, memory(replicas))
        code = await _end(call)
    return most - before, code


async def _end(call: Any) -> grpc.StatusCode:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


def test_the_config_names_all_services_and_what_bounds_streams() -> None:
    config = yaml.safe_load(ray_cluster.CONFIG.read_text())
    functions = {
        f"{service.full_name.rpartition('.')[0]}.{service.file.name.rpartition('/')[2][:-6]}"
        f"_pb2_grpc.add_{service.name}Servicer_to_server"
        for service in contract()
    }
    assert set(config["grpc_options"]["grpc_servicer_functions"]) == functions
    [application] = config["applications"]
    assert application["runtime_env"]["env_vars"] == BOUNDED
    replica_settings(application["args"])


def test_unbounded_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BOUNDED.items():
        monkeypatch.setenv(name, value)
    check_bounded()
    monkeypatch.setenv("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "1")
    with pytest.raises(ConfigError, match="SEPARATE_THREAD must be 0"):
        check_bounded()


def test_tls_is_refused_behind_ray() -> None:
    with pytest.raises(ConfigError, match="tls_cert"):
        replica_settings({"tls_cert": "a.pem", "tls_key": "a.key"})
