"""Where a peer lives: a folder with an environment of its own and the model in its own format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """One peer's folder.

    ``venv/`` is its Python environment, ``preload/`` holds libraries that its processes load first,
    ``installed.json`` is written when the installation is complete. The rest is its own business.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def model(self) -> str | None:
        """The checkpoint it was prepared for, as it was named; None: nothing is installed."""
        mark = self._mark
        return json.loads(mark.read_text(encoding="utf-8"))["model"] if mark.is_file() else None

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables its processes need."""
        preload = self.folder / "preload"
        libraries = ":".join(str(path.resolve()) for path in sorted(preload.glob("*")))
        return {"LD_PRELOAD": libraries} if libraries else {}

    # --- To install ---

    def make_venv(self) -> None:
        """An empty environment of the Python that runs now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark.unlink(missing_ok=True)
        self.run(sys.executable, "-m", "venv", "--clear", str(self.folder / "venv"))

    def pip(self, *arguments: str) -> None:
        """``pip`` of the environment."""
        self.run(str(self.python), "-m", "pip", *arguments)

    def run(self, *command: str) -> str:
        """Run a command in the folder, with the environment's programs first; its output.

        Raises:
            subprocess.CalledProcessError: It failed; what it said stands on stderr.
        """
        path = f"{self.python.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def finish(self, model: str) -> None:
        """Mark the installation as complete."""
        self._mark.write_text(json.dumps({"model": model}) + "\n", encoding="utf-8")

    @property
    def _mark(self) -> Path:
        return self.folder / "installed.json"
