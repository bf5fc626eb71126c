"""A model named by its hub id, fetched by the real client from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import sys
from pathlib import Path
from headstream.model.loading.source import resolve

print(resolve("acme/tiny", Path(sys.argv[1])))
"""


@contextmanager
def hub(directory: Path, asked: list[str]) -> Generator[str]:
    """A hub with one repository, acme/tiny; its address. ``asked`` gets every file sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            files = sorted(directory.iterdir())
            if "/tree/" in self.path:
                content = json.dumps([_entry(path) for path in files]).encode()
            elif self.path.startswith("/api/"):
                names = [{"rfilename": path.name} for path in files]
                content = json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": names}).encode()
            else:
                name = self.path.rpartition("/")[2]
                content = (directory / name).read_bytes()
                if body:
                    asked.append(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is inherited
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return {"type": "file", "path": path.name, "size": len(content), "oid": blob}


def test_a_hub_id_is_fetched_without_code_or_pickles(tmp_path: Path, make_checkpoint: Any) -> None:
    directory, _ = make_checkpoint(
        "llama", vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    (directory / "pytorch_model.bin").write_bytes(b"a pickle")
    (directory / "modeling_tiny.py").write_text("raise SystemExit")
    asked: list[str] = []
    # A process of its own: the client reads the hub's address when it is imported.
    with hub(directory, asked) as address:
        result = subprocess.run(
            [sys.executable, "-c", FETCH, str(tmp_path / "cache")],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    fetched = Path(result.stdout.splitlines()[-1])
    assert sorted(asked) == sorted(path.name for path in fetched.iterdir())
    assert set(asked) >= {"config.json", "model.safetensors"}
    assert not {"pytorch_model.bin", "modeling_tiny.py"} & set(asked)
    for path in fetched.iterdir():
        assert path.read_bytes() == (directory / path.name).read_bytes()
