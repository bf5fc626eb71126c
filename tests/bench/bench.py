"""Rates and latencies of Headstream beside other engines and beside the machine's own limits.

Run it by its path, on a machine that does nothing else (README.md says how to get the peers):

    python tests/bench/bench.py --peers PEERS --out result.json --document docs
    python tests/bench/bench.py --result result.json --document docs     # the same, shown again
    python tests/bench/bench.py --quick                                  # does it run at all

Every contender runs in a process of its own with the same number of threads, and the contenders
take turns within each round, so that whatever the machine does, it does to all of them. Each count
of tokens is checked, and the greedy tokens are compared with those of transformers in the same run:
in float32 a difference makes the exit status 1, and so do logits of ours that lie more than 1e-4
from those of transformers. A contender that fails makes it 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    from bench.contenders.registry import CONTENDERS, DTYPES

    parser = argparse.ArgumentParser(
        description="Measure Headstream beside other engines and the machine's limits."
    )
    parser.add_argument(
        "--model", default="gemma-3-270m", help="embedded name, directory, GGUF file or hub id"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: fp32 and bf16")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="who runs")
    parser.add_argument("--streams", nargs="+", type=int, help="default: 1 8 32")
    parser.add_argument("--new", type=int, help="tokens generated per stream; default: 128")
    parser.add_argument("--rounds", type=int, help="turns of each contender; default: 3")
    parser.add_argument("--threads", type=int, help="default: one per core this process may use")
    parser.add_argument("--max-num-batched-tokens", type=int, help="of Headstream's steps")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one short round")
    parser.add_argument("--peers", type=Path, help="where install_peers.py put the other engines")
    parser.add_argument("--out", type=Path, help="the JSON goes here, not to stdout")
    parser.add_argument("--document", type=Path, help="performance.md and its charts go here")
    parser.add_argument("--result", type=Path, help="show this JSON again, measure nothing")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """The result of a run.

    Raises:
        WorkerError: A contender failed.
    """
    from bench import harness, plan, report
    from bench.contenders.registry import DTYPES
    from bench.worker import available_cores

    base = plan.QUICK if options.quick else plan.FULL
    wanted = base.changed(
        contenders=tuple(options.contenders) if options.contenders else None,
        dtypes=tuple(DTYPES[name] for name in options.dtype) if options.dtype else None,
        streams=tuple(sorted(options.streams)) if options.streams else None,
        new=options.new,
        rounds=options.rounds,
    )
    place = plan.Place(
        source=options.model,
        cache_dir=str(Path(options.cache_dir).expanduser().resolve()),
        device=options.device,
        threads=options.threads or available_cores(),
        max_num_batched_tokens=options.max_num_batched_tokens,
        peers=options.peers.expanduser().resolve() if options.peers else None,
    )
    description = report.describe_run("bench.py", arguments, options.device)
    return {**description, **harness.run(wanted, place)}


def main(arguments: list[str]) -> int:
    """Measure, print, and say by the exit status whether the answers were right."""
    from bench import document, harness, report
    from bench.worker import WorkerError, tell

    options = parse_arguments(arguments)
    try:
        if options.result:
            result = json.loads(options.result.read_text(encoding="utf-8"))
        else:
            result = measure(options, arguments)
    except WorkerError as error:
        tell(f"error: {error}")
        return 2
    text = report.render(result)
    if options.document:
        document.write(result, options.document)
    if options.document and not options.out:  # the document keeps the JSON
        print(text)
    else:
        report.emit(result, text, options.out)
    return 0 if harness.is_right(result) else 1


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
