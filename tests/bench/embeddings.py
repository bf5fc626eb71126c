"""Vectors of sentences: Headstream's engine and its service, beside other engines and the floor.

    python tests/bench/embeddings.py --peers PEERS --out embeddings.json

The same 1,000 sentences of 8 to 128 tokens, taking turns: the engine alone, the service through
`Embed` (64 texts a call) and through `EmbedStream`, `sentence-transformers` in its process, and
vLLM's pooling runner where it is installed. From text to vectors in memory, each with as many
threads. Exits with 1 where a vector of ours in float32 is not that of `sentence-transformers`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

CLOSE = 1e-5
OURS = ("engine", "Embed", "EmbedStream")
REFERENCE = "sentence-transformers"
PEER = "vllm"
TARGETS = {
    "engine": "bench.embedders:Engine",
    "Embed": "bench.embedders:Served",
    "EmbedStream": "bench.embedders:Served",
    REFERENCE: "bench.embedders:SentenceTransformers",
    PEER: "bench.embedders:VllmPooling",
}


def cut_sentences(directory: Path, count: int, shortest: int, longest: int) -> list[str]:
    """Runs of words with a length in tokens drawn evenly from [shortest, longest]."""
    from tokenizers import Tokenizer

    from bench.data import english_text

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = english_text().split()
    draw = random.Random(0)
    sentences: list[str] = []
    while len(sentences) < count:
        wanted = draw.randint(shortest, longest)
        start = draw.randrange(len(words) - longest)
        ends = [0, *(end for _, end in tokenizer.encode(" ".join(words[start:][:wanted])).offsets)]
        text = " ".join(words[start:][:wanted])[: ends[min(wanted - 2, len(ends) - 2)]]
        if shortest <= len(tokenizer.encode(text).ids) <= longest:
            sentences.append(text)
    return sentences


def layer_weights(directory: Path) -> int:
    """Elements of the matrices that every token is multiplied with."""
    from headstream.model.loading.header import read_header

    return sum(
        entry.shape[0] * entry.shape[1]
        for path in directory.glob("*.safetensors")
        for name, entry in read_header(path).items()
        if len(entry.shape) == 2 and "embeddings." not in name and "pooler." not in name
    )


class Bench:
    """What both dtypes have in common."""

    def __init__(self, options: argparse.Namespace, threads: int, cache_dir: str) -> None:
        from headstream.model.loading.source import resolve

        self._options = options
        self._threads = threads
        self._cache_dir = cache_dir
        self.directory = resolve(options.model, Path(cache_dir)).resolve()
        self.texts = cut_sentences(
            self.directory, options.sentences, options.shortest, options.longest
        )

    def num_tokens(self) -> int:
        """Of all sentences, special ones included."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))
        tokenizer.no_padding()
        return sum(len(each.ids) for each in tokenizer.encode_batch(self.texts))

    def run(self, dtype: str) -> dict[str, Any]:
        """All rounds with one dtype."""
        from bench.spread import spread
        from bench.worker import tell

        flops = 2.0 * self.num_tokens() * layer_weights(self.directory)
        floors: list[float] = []
        with ExitStack() as stack:
            limits = stack.enter_context(self._limits())
            workers = {name: stack.enter_context(w) for name, w in self._workers(dtype)}
            seconds: dict[str, list[float]] = {name: [] for name in workers}
            for worker in workers.values():
                worker.call("embed", texts=self.texts)
            for index in range(self._options.rounds):
                tell(f"{dtype}: round {index + 1} of {self._options.rounds}")
                rates = limits.call("measure", dtype=dtype, seconds=self._options.limit_seconds)
                floors.append(flops / rates.result["gemm_flops"])
                shift = index % len(workers)
                names = list(workers)
                for name in names[shift:] + names[:shift]:
                    reply = workers[name].call("embed", texts=self.texts)
                    seconds[name].append(reply.seconds)
            vectors = {name: worker.call("vectors").result for name, worker in workers.items()}
            peers = {PEER: workers[PEER].call("describe").result} if PEER in workers else {}
        floor = min(floors)
        return {
            "dtype": dtype,
            "floor_seconds": floor,
            "peers": peers,
            "seconds": seconds,
            "rate": {
                name: spread(len(self.texts) / each for each in times)
                for name, times in seconds.items()
            },
            "of_floor": {
                name: spread(floor / each for each in times) for name, times in seconds.items()
            },
            "ratio": {
                f"{own} / {other}": spread(
                    theirs / ours for ours, theirs in zip(seconds[own], seconds[other], strict=True)
                )
                for own in OURS
                if own in seconds
                for other in seconds
                if other not in (own, *OURS[1:])
            },
            "apart": {name: largest_gap(vectors[name], vectors[REFERENCE]) for name in vectors},
        }

    def _limits(self) -> Any:
        from bench.worker import Worker

        place = {
            "source": str(self.directory),
            "cache_dir": self._cache_dir,
            "threads": self._threads,
            "read_mib": 64,
        }
        return Worker("bench.limits:Limits", place, self._threads)

    def _workers(self, dtype: str) -> Any:
        """Each contender by name, started."""
        from bench.home import Home
        from bench.worker import Worker, tell

        shared = {"directory": str(self.directory), "dtype": dtype, "threads": self._threads}
        wanted = {*self._options.contenders, REFERENCE}
        for name, target in TARGETS.items():
            if name not in wanted:
                continue
            settings: dict[str, Any] = shared | {"cache_dir": self._cache_dir}
            if target.endswith("Served"):
                settings["streamed"] = name == "EmbedStream"
            if name != PEER:
                tell(f"{dtype}: starting {name}")
                yield name, Worker(target, settings, self._threads)
            elif self._options.peers is not None:
                tell(f"{dtype}: starting {name}")
                home = Home(self._options.peers.expanduser().resolve() / PEER)
                yield (
                    name,
                    Worker(
                        target,
                        shared,
                        self._threads,
                        python=home.python,
                        environment=home.environment,
                    ),
                )


def largest_gap(vectors: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """The largest difference of two numbers in the same place."""
    import numpy as np

    return float(np.abs(np.array(vectors) - np.array(others)).max())


def is_right(result: Mapping[str, Any]) -> bool:
    """Whether ours in float32 are the library's vectors."""
    return all(
        run["apart"][name] <= CLOSE
        for run in result["runs"]
        if run["dtype"] == "float32"
        for name in OURS
        if name in run["apart"]
    )


def render(result: Mapping[str, Any]) -> str:
    """The result as text."""
    from bench import report, tables

    settings = result["settings"]
    medians = f"median (lowest-highest) of {tables.count(settings['rounds'], 'round')}"
    lines = [
        *report.head(result),
        f"{settings['sentences']} sentences, {settings['tokens']} tokens; {medians}",
    ]
    for run in result["runs"]:
        table = [
            (run["dtype"], "sentences/s", "of the floor", f"from {REFERENCE}'s"),
            *(
                (
                    name,
                    tables.span(run["rate"][name], 1),
                    f"{run['of_floor'][name]['median']:.2f}",
                    f"{run['apart'][name]:.1e}",
                )
                for name in run["seconds"]
            ),
        ]
        ratios = [
            ("ratio of rates, rounds paired", ""),
            *((pair, tables.span(found, 1, digits=2)) for pair, found in run["ratio"].items()),
        ]
        lines += ["", *tables.text(table), "", *tables.text(ratios)]
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    from bench.contenders.registry import DTYPES

    parser = argparse.ArgumentParser(description="Sentence vectors beside other engines.")
    parser.add_argument("--model", default="all-minilm-l6-v2", help="embedded name or directory")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--contenders", nargs="+", choices=TARGETS, default=list(TARGETS), help="who runs"
    )
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--shortest", type=int, default=8, help="tokens, special ones included")
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-seconds", type=float, default=1.0, help="of each loop")
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--peers", type=Path, help="where install_peers.py put vLLM")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure, compare and print."""
    from bench import report
    from bench.contenders.registry import DTYPES
    from bench.worker import WorkerError, available_cores, tell

    options = parse_arguments(arguments)
    threads = options.threads or available_cores()
    bench = Bench(options, threads, str(Path(options.cache_dir).expanduser().resolve()))
    result: dict[str, Any] = {
        **report.describe_run("embeddings.py", arguments),
        "settings": {
            "model": Path(options.model).name,
            "sentences": len(bench.texts),
            "tokens": bench.num_tokens(),
            "rounds": options.rounds,
            "threads": threads,
        },
    }
    try:
        result["runs"] = [bench.run(DTYPES[name]) for name in options.dtype]
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    report.emit(result, render(result), options.out)
    return 0 if is_right(result) else 1


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
