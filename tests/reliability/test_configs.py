"""The configurations of the load balancers, judged by the load balancers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proxy_process import CONFIGS, find_program

CHECKS = {
    "envoy": ["--mode", "validate", "--log-level", "error", "-c"],
    "haproxy": ["-c", "-f"],
    "nginx": ["-t", "-c"],
}
MISTAKES = {
    "envoy": ("unhealthy_threshold", "unhealthy_treshold"),
    "haproxy": ("balance leastconn", "balance leastcon"),
    "nginx": ("grpc_read_timeout", "grpc_reading_timeout"),
}


def valid(program: str, path: Path) -> bool:
    command = [find_program(program), *CHECKS[program], str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("program", CHECKS)
def test_the_configuration_is_valid(program: str) -> None:
    assert valid(program, CONFIGS[program])


@pytest.mark.parametrize("program", CHECKS)
def test_a_mistake_is_seen(program: str, tmp_path: Path) -> None:
    """Negative control."""
    right, wrong = MISTAKES[program]
    text = CONFIGS[program].read_text()
    assert right in text
    path = tmp_path / CONFIGS[program].name
    path.write_text(text.replace(right, wrong))
    assert not valid(program, path)
