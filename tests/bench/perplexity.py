"""Perplexity of 50 kB of English through gRPC, beside `transformers`, and how fast both score.

    python tests/bench/perplexity.py --out perplexity.json

The same converted weights, tokens and windows in float32, taking turns: a real server and the sync
client, and the strided recipe of the `transformers` documentation. Exits with 1 where the
perplexities differ in the fourth decimal.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CLOSE = 5e-5  # half of the fourth decimal; of a number that has no four decimals, a millionth
OURS, THEIRS = "headstream-grpc", "transformers"


class Served:
    """A server in processes of its own, and the client."""

    def __init__(
        self, directory: str, threads: int, cache_dir: str, window: int, text_bytes: int
    ) -> None:
        self._flags = [
            f"--models={directory}",
            f"--cache-dir={cache_dir}",
            f"--threads={threads}",
            "--dtype=float32",
            f"--max-model-len={window}",
            f"--max-text-bytes={text_bytes}",
        ]

    def start(self) -> None:
        from headstream.client import Client
        from headstream.server.cli.child import ServerProcess

        self._server = ServerProcess(self._flags)
        try:
            address = self._server.wait_until_ready(lambda *_: None)
        except BaseException:
            self._server.stop()
            raise
        self._client = Client(address, stream_timeout=None)

    def stop(self) -> None:
        self._client.close()
        self._server.stop()

    def score(self, text: str, stride: int) -> dict[str, Any]:
        """Token ids, log-probabilities of all but the first, and the server's own perplexity."""
        scores = self._client.score(text, window_stride=stride, timeout=24 * 3600)
        return {
            "ids": scores.token_ids.tolist(),
            "logprobs": scores.logprobs.tolist(),
            "perplexity": scores.perplexity,
            "tokens_read": scores.usage.input_tokens,
        }


class Recipe:
    """`transformers`, one window after the other."""

    def __init__(self, directory: str, threads: int, window: int) -> None:
        self._directory = directory
        self._threads = threads
        self._window = window

    def start(self) -> None:
        import torch
        import transformers
        from tokenizers import Tokenizer

        torch.set_num_threads(self._threads)
        auto: Any = transformers.AutoModelForCausalLM
        self._model: Any = auto.from_pretrained(self._directory, dtype=torch.float32).eval()
        self._tokenizer = Tokenizer.from_file(str(Path(self._directory) / "tokenizer.json"))

    def stop(self) -> None:
        del self._model

    def score(self, text: str, stride: int) -> dict[str, Any]:
        """Token ids, log-probabilities of all but the first, and their perplexity."""
        import torch

        from strided_perplexity import windows

        ids = torch.tensor([self._tokenizer.encode(text).ids])  # [1, n]
        logprobs: list[float] = []
        read = 0
        for begin, end, new in windows(ids.shape[1], self._window, stride):
            read += end - begin
            count = min(new, end - begin - 1)  # the first token of the text has no score
            with torch.inference_mode():
                # The rows that score a token, no others: the recipe unembeds all and drops some.
                rows = self._model(ids[:, begin:end], use_cache=False, logits_to_keep=count + 1)
                logits = rows.logits[0, :-1]  # [count, V]
                chosen = logits.gather(1, ids[0, end - count : end, None])[:, 0]
                logprobs += (chosen - logits.logsumexp(dim=1)).tolist()
        return {
            "ids": ids[0].tolist(),
            "logprobs": logprobs,
            "perplexity": perplexity(logprobs),
            "tokens_read": read,
        }


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean of the negative log-probabilities."""
    return math.exp(-math.fsum(logprobs) / len(logprobs))


def cut_bytes(text: str, count: int) -> str:
    """The beginning of a text, of at most ``count`` bytes of UTF-8."""
    return text.encode()[:count].decode(errors="ignore")


def measure(options: argparse.Namespace, text: str, threads: int, cache_dir: str) -> dict[str, Any]:
    """Both in turn, ``options.rounds`` times."""
    from bench.spread import spread
    from bench.worker import Worker, tell

    place = {"source": options.model, "cache_dir": cache_dir, "threads": threads, "read_mib": 1}
    with Worker("bench.limits:Limits", place, threads) as limits:
        directory = limits.call("model").result["directory"]
    shared = {"directory": directory, "threads": threads, "window": options.window}
    served = {**shared, "cache_dir": cache_dir, "text_bytes": len(text.encode())}
    answers: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    with (
        Worker("bench.perplexity:Served", served, threads) as ours,
        Worker("bench.perplexity:Recipe", shared, threads) as theirs,
    ):
        workers = {OURS: ours, THEIRS: theirs}
        warm = cut_bytes(text, 2000)
        for worker in workers.values():
            worker.call("score", text=warm, stride=options.stride)
        for _ in range(options.rounds):
            for name, worker in workers.items():
                reply = worker.call("score", text=text, stride=options.stride)
                seconds[name].append(reply.seconds)
                answers[name] = reply.result
                tell(f"{name}: {reply.result['perplexity']:.6f} in {reply.seconds:.1f} s")
    if answers[OURS]["ids"] != answers[THEIRS]["ids"]:
        raise RuntimeError("the tokens are not the same")
    pairs = zip(answers[OURS]["logprobs"], answers[THEIRS]["logprobs"], strict=True)
    scored = len(answers[OURS]["logprobs"])
    ratios = (other / own for own, other in zip(seconds[OURS], seconds[THEIRS], strict=True))
    return {
        "tokens": len(answers[OURS]["ids"]),
        "tokens_scored": scored,
        "tokens_read": answers[THEIRS]["tokens_read"],
        "perplexity": {name: answer["perplexity"] for name, answer in answers.items()},
        "logprobs_apart": max(abs(own - other) for own, other in pairs),
        "seconds": seconds,
        "rate": {name: spread(scored / each for each in times) for name, times in seconds.items()},
        "ratio": spread(ratios),
    }


def is_equal(result: Mapping[str, Any]) -> bool:
    """Whether the perplexities are the same to four decimals."""
    values = result["perplexity"]
    return math.isclose(values[OURS], values[THEIRS], rel_tol=1e-6, abs_tol=CLOSE)


def render(result: Mapping[str, Any]) -> str:
    """The result as text."""
    from bench import report, tables

    settings, ratio = result["settings"], result["ratio"]["median"]
    table = [
        ("", "perplexity", "tokens/s"),
        *(
            (name, f"{result['perplexity'][name]:.6f}", tables.span(result["rate"][name], 1))
            for name in (OURS, THEIRS)
        ),
        ("ours / theirs", "equal" if is_equal(result) else "WRONG", f"{ratio:.2f}"),
    ]
    title = (
        f"{settings['text']}: {settings['text_bytes']} bytes, {result['tokens_scored']} tokens "
        f"scored; windows of {settings['window']}, {settings['stride']} apart, read "
        f"{result['tokens_read']}; {tables.count(settings['rounds'], 'round')}"
    )
    apart = f"log-probabilities are at most {result['logprobs_apart']:.1e} apart"
    return "\n".join([*report.head(result), "", title, *tables.text(table), apart])


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Perplexity and speed beside transformers.")
    parser.add_argument("--model", default="gemma-3-270m", help="embedded name, directory, ...")
    parser.add_argument("--text", type=Path, help="UTF-8; default: the reference manual of Python")
    parser.add_argument("--bytes", type=int, default=50_000, help="of the text, from its beginning")
    parser.add_argument("--window", type=int, default=1024, help="tokens")
    parser.add_argument("--stride", type=int, default=512, help="tokens from window to window")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure, compare and print."""
    import hashlib

    from bench import report
    from bench.data import english_text
    from bench.worker import WorkerError, available_cores, tell

    options = parse_arguments(arguments)
    threads = options.threads or available_cores()
    whole = english_text() if options.text is None else options.text.read_text(encoding="utf-8")
    text = cut_bytes(whole, options.bytes)
    result: dict[str, Any] = {
        **report.describe_run("perplexity.py", arguments),
        "settings": {
            "text": "the reference manual of Python" if options.text is None else options.text.name,
            "text_bytes": len(text.encode()),
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "window": options.window,
            "stride": options.stride,
            "rounds": options.rounds,
            "threads": threads,
        },
    }
    cache_dir = str(Path(options.cache_dir).expanduser().resolve())
    try:
        result.update(measure(options, text, threads, cache_dir))
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    report.emit(result, render(result), options.out)
    return 0 if is_equal(result) else 1


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
