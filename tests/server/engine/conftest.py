"""A tiny random checkpoint for the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstream.model.kernels import TORCH_INT8_KERNELS, TORCH_KERNELS
from headstream.server.engine import build
from tiny_models import DECODERS, ENCODERS, save_tiny

_TORCH = {"none": TORCH_KERNELS, "int8": TORCH_INT8_KERNELS}


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3."""
    return save_tiny("gemma3", tmp_path_factory.mktemp("tiny-gemma"))


@pytest.fixture(scope="session")
def gentle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directory of a random model of each family, whose values are about 1."""
    return {
        family: save_tiny(family, tmp_path_factory.mktemp(family), initializer_range=0.1)
        for family in (*DECODERS, *ENCODERS)
    }


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled to, once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines run torch's operators, with which a row's bits do depend on where prompts are cut."""
    monkeypatch.setattr(build, "choose_kernels", lambda *_, quantization: _TORCH[quantization])


@pytest.fixture(params=["native", "torch"])
def each_backend(request: pytest.FixtureRequest) -> None:
    """Engines run with native kernels where they can be built, then with torch's operators."""
    if request.param == "torch":
        request.getfixturevalue("torch_kernels")
