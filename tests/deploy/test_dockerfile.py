"""The Dockerfile, judged by a linter, and what must hold in every image."""

from __future__ import annotations

import subprocess

import pytest

from proxy_process import DEPLOY, find_program

PATH = DEPLOY / "Dockerfile"
TARGETS = ("cpu", "cuda")
# Debian's security updates must come in, and our own wheel has no version to pin.
IGNORED = ("DL3008", "DL3013")


def lint(text: str) -> int:
    command = [find_program("hadolint"), *(f"--ignore={rule}" for rule in IGNORED), "-"]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    return done.returncode


def test_the_linter_has_nothing_to_say() -> None:
    assert lint(PATH.read_text()) == 0


def test_the_linter_sees_a_mistake() -> None:
    """Negative control."""
    assert lint(PATH.read_text().replace("apt-get install --yes", "apt-get install")) != 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular(target: str) -> None:
    stages = PATH.read_text().split("\nFROM ")
    [stage] = [text for text in stages if text.split("\n")[0].endswith(f" AS {target}")]
    for line in ("USER 65532:65532", "STOPSIGNAL SIGTERM", 'ENTRYPOINT ["headstream", "serve"]'):
        assert f"\n{line}\n" in f"{stage}\n"
    assert "HEALTHCHECK" in stage
