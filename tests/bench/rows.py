"""Memory and time of one packed step of 32,768 rows.

    python tests/bench/rows.py --out rows.json

Twice: one sequence of 32,768 tokens, and 128 sequences of 256. Each runs in a fresh process whose
peak the kernel tells, for a tiny random model (what rows cost without weights) and for a real one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

from headstream.server.engine.messages import FromEngine, StepReport, Submit

TINY = "tiny"
SEQUENCE_TOKENS = 256  # of each, where many share the step
BLOCK = 32  # tokens
PROCESS = Path("/proc/self")


class PackedStep:
    """The core of an engine, which is given all sequences before its one step; runs in a worker.

    Without the socket: through it, sequences that arrive late would miss the step.
    """

    def __init__(self, directory: str, dtype: str, cache_dir: str, **sizes: int) -> None:
        self._settings = {
            "name": "rows",
            "source": directory,
            "cache_dir": cache_dir,
            "dtype": dtype,
            "prefix_caching": False,  # the same prompts come again
            **sizes,
        }
        self._reports: list[StepReport] = []

    def start(self) -> None:
        import msgspec

        from headstream.model.allocator import tune_allocator
        from headstream.server.engine.build import build
        from headstream.server.engine.config import EngineConfig
        from headstream.server.engine.core import EngineCore

        tune_allocator()
        config = msgspec.convert(self._settings, EngineConfig)
        runner, scheduler, _ = build(config, lambda *_: None)
        self._core = EngineCore(runner, scheduler, self._take)

    def stop(self) -> None:
        del self._core

    def measure(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        """Run all prompts in one step, ``steps`` times; bytes of all, seconds of each.

        Raises:
            RuntimeError: A step did not run all of them.
        """
        loading_peak, loaded = memory("VmHWM"), memory("VmRSS")
        (PROCESS / "clear_refs").write_text("5")  # the peak starts again from what is there
        return {
            "step_seconds": [self._step(prompts) for _ in range(steps)],
            "loading_peak_bytes": loading_peak,
            "loaded_bytes": loaded,
            "peak_bytes": memory("VmHWM"),
        }

    def _step(self, prompts: list[list[int]]) -> float:
        """Each prompt with the token that follows, in one step; its seconds."""
        for number, prompt in enumerate(prompts):
            self._core.handle(Submit(number, tuple(prompt), max_new_tokens=1))
        self._core.step()
        report = self._reports.pop()
        tokens = [delta.token for delta in report.deltas if delta.token is not None]
        rows = sum(map(len, prompts))
        if report.stats.num_tokens != rows or len(tokens) != len(prompts):
            raise RuntimeError(f"{rows} rows were to run, and this did: {report}")
        return report.stats.step_ns / 1e9

    def _take(self, message: FromEngine, _: object) -> None:
        assert isinstance(message, StepReport)
        self._reports.append(message)


def memory(field: str) -> int:
    """A size of this process as the kernel counts it, in bytes."""
    for line in (PROCESS / "status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    raise RuntimeError(f"the kernel does not tell {field}")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    from bench.contenders.registry import DTYPES

    parser = argparse.ArgumentParser(description="Memory and time of one packed step.")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[TINY, "gemma-3-270m"],
        help="'tiny', embedded name, directory, GGUF file or hub id",
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rows", type=int, default=32768, help="a multiple of 256, from 512 on")
    parser.add_argument(
        "--steps", type=int, default=2, help="of each shape; the first also maps the memory"
    )
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    return parser.parse_args(arguments)


def measure(source: str, options: argparse.Namespace, threads: int) -> Iterator[dict[str, Any]]:
    """One model: both shapes in every dtype."""
    from bench.contenders.registry import DTYPES
    from bench.limits import ITEM_BYTES, ModelSizes
    from bench.worker import Worker, tell

    rows: int = options.rows
    cache_dir = str(Path(options.cache_dir).expanduser().resolve())
    with ExitStack() as stack:
        directory = source
        if source == TINY:
            from bench.tiny import save_tiny_model

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headstream-tiny-"))
            directory = str(save_tiny_model(Path(folder), max_model_len=2 * rows))
        place = {"source": directory, "cache_dir": cache_dir, "threads": threads, "read_mib": 1}
        limits = stack.enter_context(Worker("bench.limits:Limits", place, threads))
        model = limits.call("model").result
        sizes = ModelSizes(**model["sizes"])
        shapes = [(1, rows), (rows // SEQUENCE_TOKENS, SEQUENCE_TOKENS)]
        for dtype, (count, tokens) in product(map(DTYPES.__getitem__, options.dtype), shapes):
            name = Path(source).name
            tell(f"{name}, {dtype}: {count} x {tokens}")
            prompts = limits.call("prompts", count=count, length=tokens, bos_id=model["bos_id"])
            kv_row = len(sizes.windows) * sizes.kv_width * ITEM_BYTES[dtype]
            settings = {
                "directory": model["directory"],
                "dtype": dtype,
                "cache_dir": cache_dir,
                "num_threads": threads,
                "max_num_batched_tokens": rows,
                "max_num_seqs": count,
                "block_size": BLOCK,
                # Each sequence grows by a token, which may be the first of a block.
                "kv_cache_bytes": (rows + BLOCK * count) * kv_row,
            }
            with Worker("bench.rows:PackedStep", settings, threads) as worker:
                measured = worker.call("measure", prompts=prompts.result, steps=options.steps)
            shape = {"model": name, "dtype": dtype, "sequences": count, "tokens": tokens}
            yield shape | measured.result


def render(result: Mapping[str, Any]) -> str:
    """The result as text."""
    from bench import report, tables

    table = [
        (
            "model",
            "dtype",
            "sequences",
            "first s",
            "s",
            "tokens/s",
            "loaded MiB",
            "peak MiB",
            "more",
        ),
        *(
            (
                step["model"],
                step["dtype"],
                f"{step['sequences']} x {step['tokens']}",
                f"{step['step_seconds'][0]:.2f}",
                f"{step['step_seconds'][-1]:.2f}",
                f"{result['settings']['rows'] / step['step_seconds'][-1]:.0f}",
                *(
                    f"{size / (1 << 20):.0f}"
                    for size in (
                        step["loaded_bytes"],
                        step["peak_bytes"],
                        step["peak_bytes"] - step["loaded_bytes"],
                    )
                ),
            )
            for step in result["steps"]
        ),
    ]
    title = f"one packed step of {result['settings']['rows']} rows, memory of the engine process"
    return "\n".join([*report.head(result), "", title, *tables.text(table)])


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    from bench import report
    from bench.worker import WorkerError, available_cores, tell

    options = parse_arguments(arguments)
    threads = options.threads or available_cores()
    result: dict[str, Any] = {
        **report.describe_run("rows.py", arguments),
        "settings": {"rows": options.rows, "threads": threads},
        "steps": [],
    }
    try:
        for source in options.model:
            result["steps"].extend(measure(source, options, threads))
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    report.emit(result, render(result), options.out)
    return 0


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
