"""The command, where extras are missing."""

from __future__ import annotations

import subprocess
import sys

SERVER_ONLY = ("torch", "transformers", "tokenizers", "zmq", "msgspec", "pydantic_settings")


def run(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    command = [sys.executable, "-c", block + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "sys.argv[1:] = ['lookup', 'serve', '--store', 'x']\n"
    done = run(("lancedb",), code + "from headstream.server.cli import main\nmain()")
    assert done.returncode == 1
    assert done.stderr == "error: lancedb is missing: pip install 'headstream[lookup]'\n"


def test_it_needs_nothing_of_the_server() -> None:
    code = "import headstream.server.cli.app\nimport headstream.lookup.serve\n"
    done = run(SERVER_ONLY, code)
    assert done.returncode == 0, done.stderr


def test_options_of_storage_are_pairs() -> None:
    code = "sys.argv[1:] = ['lookup', 'serve', '--store', 'x', '--storage-option', 'region']\n"
    done = run((), code + "from headstream.server.cli import main\nmain()")
    assert done.returncode == 2
    assert "must be KEY=VALUE" in done.stderr
