"""Tiny random checkpoints, made by transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from headstream.model.kernels import TORCH_INT8_KERNELS, TORCH_KERNELS, Kernels, load_kernels
from triton_kernels import gpu_kernels, reached_from_cpu

Oracle = Any  # a transformers model; the library's types say no more
MakeCheckpoint = Callable[..., tuple[Path, Oracle]]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both dtypes of weights and activations."""
    return request.param


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled to, once a session."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def native_kernels(compiled: Path) -> Kernels:
    """The compiled kernels, or a skip where they cannot be compiled."""
    kernels = load_kernels(compiled)
    if kernels.name != "native":
        pytest.skip("no native kernels here")
    return kernels


@pytest.fixture(params=["native", "torch", pytest.param("triton", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Every kernel: compiled, in torch, and those of a GPU."""
    if request.param == "torch":
        return TORCH_KERNELS
    if request.param == "triton":
        return reached_from_cpu(gpu_kernels())
    native: Kernels = request.getfixturevalue("native_kernels")
    return native


@pytest.fixture(scope="session")
def native_int8_kernels(compiled: Path) -> Kernels:
    """The compiled kernels of int8 weights, or a skip where they cannot be compiled."""
    kernels = load_kernels(compiled, "int8")
    if kernels.name != "native":
        pytest.skip("no native kernels here")
    return kernels


@pytest.fixture(params=["native", "torch"])
def int8_kernels(request: pytest.FixtureRequest) -> Kernels:
    """Every kernel with int8 weights, compiled and in torch."""
    if request.param == "torch":
        return TORCH_INT8_KERNELS
    native: Kernels = request.getfixturevalue("native_int8_kernels")
    return native


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """``make_checkpoint("llama", hidden_size=32, ...) -> directory, transformers model``.

    ``auto``: the class that makes it; AutoModel has no unembedding.
    Every parameter is random, biases and gains included: a swapped or forgotten one must show.
    """

    def make(
        model_type: str, auto: str = "AutoModelForCausalLM", **config: Any
    ) -> tuple[Path, Oracle]:
        import transformers

        torch.manual_seed(0)
        shard_size = config.pop("max_shard_size", "1GB")
        auto_config: Any = transformers.AutoConfig
        auto_model: Any = getattr(transformers, auto)
        hf = auto_config.for_model(model_type, attn_implementation="eager", **config)
        oracle = auto_model.from_config(hf).eval()
        with torch.no_grad():
            for parameter in oracle.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        directory = tmp_path / f"{model_type}-{len(list(tmp_path.iterdir()))}"
        oracle.save_pretrained(directory, max_shard_size=shard_size)
        return directory, oracle

    return make
