"""The example of docs/operations.md, run as it stands by the client that it names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from headstream.client import Client
from interop_judge import Served, interop_program

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
TEXTS = ["The chicken didn't cross", "So long and thanks"]


def test_the_example_does_what_it_says(served: Served) -> None:
    program = interop_program("python")
    [example] = re.findall(r"```python\n(import numpy.*?)```", DOCUMENT.read_text(), re.DOTALL)
    address = served.replica.server.address
    headers = {"authorization": f"Bearer {served.token}"}
    for line, changed in (
        ('"localhost:50051"', f'"{address}"'),
        ("HEADERS = {}", f"HEADERS = {headers}"),
    ):
        assert example.count(line) == 1
        example = example.replace(line, changed)
    done = subprocess.run([program, "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Client(address, token=served.token) as client:
        shape = client.embed(TEXTS).shape
        steps = [next(client.generate(text, max_new_tokens=1, logits="full")) for text in TEXTS]
    rows: list[Any] = [step.logits for step in steps]
    likeliest = [[int(np.argmax(row))] for row in rows]
    assert done.stdout.splitlines() == [f"{shape} [1.0, 1.0]", f"(2, 5) {likeliest}"]
