"""Full logit rows through gRPC, beside what grpc.aio itself moves over the loopback.

    python tests/bench/transport.py --out transport.json

Both have the same number of streams and the same size of messages: a row of 262,144 float32 logits
is 1 MiB. The raw server sends bytes it has made beforehand. Ours serves a model so small that its
engine waits for the rows to leave.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

METHOD = "/bench.Raw/Stream"
D_VOCAB, D_MODEL = 262_144, 16
ROW_BYTES = 4 * D_VOCAB
PROMPT = [2, 40, 41, 42]


class RawLoopback:
    """grpc.aio alone: a server that streams the same bytes again and again, and a reader."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._server = context.Process(target=_serve_raw, args=(theirs, self._message_bytes))
        self._server.start()
        self._port = ours.recv()

    def stop(self) -> None:
        self._server.kill()
        self._server.join()

    def rows(self, streams: int, count: int) -> dict[str, Any]:
        """``count`` messages over each of ``streams`` calls: bytes and seconds."""
        return asyncio.run(self._rows(streams, count))

    async def _rows(self, streams: int, count: int) -> dict[str, Any]:
        import grpc.aio

        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            method: Any = channel.unary_stream(METHOD)

            async def read() -> int:
                return sum([len(message) async for message in method(str(count).encode())])

            await channel.channel_ready()
            begin = time.perf_counter()
            sizes = await asyncio.gather(*(read() for _ in range(streams)))
            return {"bytes": sum(sizes), "seconds": time.perf_counter() - begin}


def _serve_raw(pipe: multiprocessing.connection.Connection, message_bytes: int) -> None:
    asyncio.run(_serve(pipe, bytes(message_bytes)))


async def _serve(pipe: multiprocessing.connection.Connection, message: bytes) -> None:
    import grpc.aio

    async def stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for _ in range(int(request)):
            yield message

    handler: Any = grpc.unary_stream_rpc_method_handler(stream)
    service, method = METHOD.strip("/").split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(port)
    await server.wait_for_termination()


class ServedRows:
    """Our server and client, full rows of a small model."""

    def __init__(self, cache_dir: str, threads: int) -> None:
        self._cache_dir = cache_dir
        self._threads = threads

    def start(self) -> None:
        from bench.contenders.headstream import HeadstreamGrpc
        from bench.tiny import save_tiny_model

        self._folder = tempfile.TemporaryDirectory(prefix="headstream-thin-")
        directory = save_tiny_model(Path(self._folder.name), 4096, d_vocab=D_VOCAB, d_model=D_MODEL)
        self._inner = HeadstreamGrpc(str(directory), "float32", self._threads, self._cache_dir)
        self._inner.start()

    def stop(self) -> None:
        self._inner.stop()
        self._folder.cleanup()

    def rows(self, streams: int, count: int) -> dict[str, Any]:
        """``count`` full rows over each of ``streams`` calls: bytes and seconds."""
        begin = time.perf_counter()
        received = self._inner.rows([PROMPT] * streams, count, "full")
        return {"bytes": received["bytes"], "seconds": time.perf_counter() - begin}


def measure(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Both, interleaved; MB/s of each round."""
    from bench.spread import spread
    from bench.worker import Worker, tell

    cache_dir = str(Path(options.cache_dir).expanduser().resolve())
    rates: dict[str, list[float]] = {"raw": [], "served": []}
    received: dict[str, int] = {}
    with (
        Worker("bench.transport:RawLoopback", {"message_bytes": ROW_BYTES}, threads) as raw,
        Worker(
            "bench.transport:ServedRows", {"cache_dir": cache_dir, "threads": threads}, threads
        ) as served,
    ):
        for index in range(options.rounds + 1):  # the first one warms up
            for name, worker in (("raw", raw), ("served", served)):
                found = worker.call("rows", streams=options.streams, count=options.rows).result
                rate = found["bytes"] / found["seconds"] / 1e6
                tell(f"{name}: {rate:.0f} MB/s")
                received[name] = found["bytes"]
                if index:
                    rates[name].append(rate)
    ratios = [ours / limit for ours, limit in zip(rates["served"], rates["raw"], strict=True)]
    return {
        "received_bytes": received,  # in each round
        "megabytes_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": spread(ratios),
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as text."""
    from bench import report, tables

    settings = result["settings"]
    rates = result["megabytes_per_second"]
    table = [
        ("", "MB/s", "low", "high"),
        *(
            (name, *(f"{rates[name][part]:.0f}" for part in ("median", "low", "high")))
            for name in ("raw", "served")
        ),
        ("served / raw", *(f"{result['ratio'][part]:.2f}" for part in ("median", "low", "high"))),
    ]
    title = f"messages of 1 MiB on {settings['streams']} streams, {settings['rounds']} rounds"
    return "\n".join([*report.head(result), "", title, *tables.text(table)])


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Full logit rows beside the raw loopback.")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="compiled kernels")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    from bench import report
    from bench.worker import WorkerError, available_cores, tell

    options = parse_arguments(arguments)
    threads = options.threads or available_cores()
    result: dict[str, Any] = {
        **report.describe_run("transport.py", arguments),
        "settings": {
            "streams": options.streams,
            "rows": options.rows,
            "rounds": options.rounds,
            "threads": threads,
        },
    }
    try:
        result.update(measure(options, threads))
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    report.emit(result, render(result), options.out)
    return 0


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
