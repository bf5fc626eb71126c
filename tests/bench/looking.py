"""What it costs others when one stream looks inside the model.

    python tests/bench/looking.py --out looking.json

31 streams decode through a real server beside one more that begins anew as long as they run: an
ordinary one, one that traces the residual stream of all layers while its tokens are generated, and
one that asks for the attention weights of all layers and heads of its prompt. The three take turns
in one run, with the same tokens. Exits with 1 where a token of the 31 is another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

Tokens = list[list[int]]
ORDINARY = "ordinary"
BESIDE = (ORDINARY, "trace", "attention")


class Streams:
    """A server in processes of its own, the streams, and the one beside them."""

    def __init__(
        self,
        directory: str,
        dtype: str,
        threads: int,
        cache_dir: str,
        *,
        prompts: Tokens,
        new: int,
    ) -> None:
        self._runner = asyncio.Runner()
        *self._prompts, self._beside = prompts
        self._new = new
        self._flags = [
            f"--models=bench={directory}",
            f"--cache-dir={cache_dir}",
            f"--dtype={dtype}",
            f"--threads={threads}",
            "--no-prefix-caching",  # the same prompts come again and again
            f"--max-queued-tokens={1 << 20}",
        ]

    def start(self) -> None:
        from headstream.server.cli.child import ServerProcess

        self._server = ServerProcess(self._flags)
        try:
            address = self._server.wait_until_ready(lambda *_: None)
            self._runner.run(self._connect(address))
        except BaseException:
            self._server.stop()
            raise

    async def _connect(self, address: str) -> None:
        from headstream.client import AsyncClient

        self._client = AsyncClient(address, stream_timeout=3600.0)
        await self._client.models()

    def stop(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
        self._server.stop()

    def decode(self, beside: str) -> dict[str, Any]:
        """Seconds of the streams, their tokens, and how often the one beside them has ended."""
        return self._runner.run(self._decode(beside))

    async def _decode(self, beside: str) -> dict[str, Any]:
        count = 0

        async def repeat(call: Callable[[], Awaitable[object]]) -> None:
            nonlocal count
            while True:
                await call()
                count += 1

        other = asyncio.create_task(repeat(getattr(self, f"_{beside}")))
        begin = time.perf_counter()
        tokens = await asyncio.gather(*map(self._continue, self._prompts))
        seconds = time.perf_counter() - begin
        failed = other.done()
        other.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await other
        assert not failed
        return {"seconds": seconds, "tokens": tokens, "calls": count}

    async def _continue(self, prompt: Sequence[int]) -> list[int]:
        stream = self._client.generate(prompt, max_new_tokens=self._new, ignore_eos=True)
        return [step.token_id async for step in stream]

    async def _ordinary(self) -> None:
        await self._continue(self._beside)

    async def _trace(self) -> None:
        await self._client.trace(self._beside, "resid_post", max_new_tokens=self._new)

    async def _attention(self) -> None:
        await self._client.attention(self._beside)
        await self._continue(self._beside)


def measure(options: argparse.Namespace, threads: int, cache_dir: str) -> dict[str, Any]:
    """All rounds."""
    from bench.contenders.registry import DTYPES
    from bench.spread import spread
    from bench.worker import Worker, tell

    place = {"source": options.model, "cache_dir": cache_dir, "threads": threads, "read_mib": 1}
    with Worker("bench.limits:Limits", place, threads) as limits:
        model = limits.call("model").result
        shape = {"count": options.streams + 1, "length": options.prompt}
        prompts = limits.call("prompts", **shape, bos_id=model["bos_id"]).result
    settings = {
        "directory": model["directory"],
        "dtype": DTYPES[options.dtype],
        "threads": threads,
        "cache_dir": cache_dir,
        "prompts": prompts,
        "new": options.new,
    }
    seconds: dict[str, list[float]] = {beside: [] for beside in BESIDE}
    calls: dict[str, list[int]] = {beside: [] for beside in BESIDE}
    tokens: dict[str, Tokens] = {}
    with Worker("bench.looking:Streams", settings, threads) as streams:
        streams.call("decode", beside=ORDINARY)
        for index in range(options.rounds):
            tell(f"round {index + 1} of {options.rounds}")
            shift = index % len(BESIDE)
            for beside in BESIDE[shift:] + BESIDE[:shift]:
                result = streams.call("decode", beside=beside).result
                seconds[beside].append(result["seconds"])
                calls[beside].append(result["calls"])
                tokens[beside] = result["tokens"]
    count = options.streams * options.new
    return {
        "seconds": seconds,
        "calls": calls,
        "rate": {name: spread(count / each for each in times) for name, times in seconds.items()},
        "ratio": {
            name: spread(
                ordinary / own
                for ordinary, own in zip(seconds[ORDINARY], seconds[name], strict=True)
            )
            for name in BESIDE
            if name != ORDINARY
        },
        "equal": {name: tokens[name] == tokens[ORDINARY] for name in BESIDE},
    }


def render(result: dict[str, Any]) -> str:
    """The result as text."""
    from bench import report, tables

    settings = result["settings"]
    table = [
        ("beside them", "tokens/s of the streams", "of ordinary", "tokens"),
        *(
            (
                name,
                tables.span(result["rate"][name], 1),
                "1.00" if name == ORDINARY else tables.span(result["ratio"][name], 1, digits=3),
                "equal" if result["equal"][name] else "OTHERS",
            )
            for name in BESIDE
        ),
    ]
    title = (
        f"{settings['streams']} streams, {settings['prompt']} + {settings['new']} tokens, "
        f"{settings['dtype']}; {tables.count(settings['rounds'], 'round')}"
    )
    return "\n".join([*report.head(result), "", title, *tables.text(table)])


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    from bench.contenders.registry import DTYPES

    parser = argparse.ArgumentParser(description="What looking inside costs others.")
    parser.add_argument("--model", default="gemma-3-270m", help="embedded name, directory, ...")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--streams", type=int, default=31)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure, compare and print."""
    from bench import report
    from bench.worker import WorkerError, available_cores, tell

    options = parse_arguments(arguments)
    threads = options.threads or available_cores()
    kept = ("dtype", "streams", "prompt", "new", "rounds")
    settings = {name: getattr(options, name) for name in kept} | {"threads": threads}
    result: dict[str, Any] = {
        **report.describe_run("looking.py", arguments),
        "settings": settings,
    }
    cache_dir = str(Path(options.cache_dir).expanduser().resolve())
    try:
        result.update(measure(options, threads, cache_dir))
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    report.emit(result, render(result), options.out)
    return 0 if all(result["equal"].values()) else 1


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
