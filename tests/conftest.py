"""What every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# Before torch loads: threads that wait for one another must not spin for long on a shared machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Before Triton loads: without a GPU its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run may be asked besides."""
    parser.addoption("--long", action="store_true", help="the long form of tests/reliability")
    parser.addoption(
        "--screenshots", action="store_true", help="take the pictures of docs/explorer anew"
    )


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command run in this process sends the logs to a stderr that ends with its test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
