"""The machine's limits, measured beside the contenders, and the times they allow a model.

A step must read every weight and the keys and values it attends to, and must do the multiply-adds
of its linear layers: no engine is faster than the larger of bytes / bandwidth and FLOPs / rate.
Attention's own arithmetic, norms and sampling count as free.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
GEMM_SHAPES = {  # M, K, N
    "cpu": ((2048, 640, 2048), (2048, 2048, 640), (2048, 1024, 4096)),
    "cuda": ((8192, 2048, 8192), (8192, 8192, 8192)),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine can do, with the threads and the dtype of the run."""

    read_bytes: float  # per second, from memory
    gemm_flops: float  # per second, weights packed once


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The part of a model that costs time."""

    layer_weights: int  # elements of all linear layers
    head_weights: int  # elements of the unembedding, V x d
    kv_width: int  # elements of K and V of one position in one layer
    windows: tuple[int | None, ...]  # [L] positions a row sees; None: all
    item_bytes: int = 4  # of an element

    def kv_elements(self, context: int) -> int:
        """Elements of K and V that one row with ``context`` keys reads over all layers."""
        seen = sum(context if window is None else min(context, window) for window in self.windows)
        return seen * self.kv_width


def step_floor(machine: Machine, sizes: ModelSizes, streams: int, context: int) -> float:
    """Seconds of a decode step: one row for each of ``streams`` sequences."""
    weights = sizes.layer_weights + sizes.head_weights
    elements = weights + streams * sizes.kv_elements(context)
    return max(
        elements * sizes.item_bytes / machine.read_bytes, 2 * weights * streams / machine.gemm_flops
    )


def prefill_floor(machine: Machine, sizes: ModelSizes, prompts: int, length: int) -> float:
    """Seconds to read prompts whose last rows are unembedded."""
    elements = sizes.layer_weights + sizes.head_weights
    multiplied = prompts * (length * sizes.layer_weights + sizes.head_weights)
    return max(
        elements * sizes.item_bytes / machine.read_bytes, 2 * multiplied / machine.gemm_flops
    )


def score_floor(machine: Machine, sizes: ModelSizes, prompts: int, length: int) -> float:
    """Seconds to read prompts and to unembed every row."""
    weights = sizes.layer_weights + sizes.head_weights
    return max(
        weights * sizes.item_bytes / machine.read_bytes,
        2 * weights * prompts * length / machine.gemm_flops,
    )


def decode_floor(machine: Machine, sizes: ModelSizes, streams: int, length: int, new: int) -> float:
    """Seconds to read ``streams`` prompts and to continue each by ``new`` tokens."""
    return prefill_floor(machine, sizes, streams, length) + sum(
        step_floor(machine, sizes, streams, length + done) for done in range(1, new)
    )


class Limits:
    """Measures, in a worker like the contenders; also knows the model's sizes and the prompts."""

    def __init__(
        self, source: str, cache_dir: str, threads: int, read_mib: int, device: str = "cpu"
    ) -> None:
        self._source = source
        self._device = device
        self._cache_dir = Path(cache_dir)
        self._threads = threads
        self._read_mib = read_mib

    def start(self) -> None:
        import torch

        from headstream.model.loading.source import resolve

        torch.set_num_threads(self._threads)
        self._directory = resolve(self._source, self._cache_dir).resolve()
        # Much larger than any cache, in large pages where the system has them: an engine may use
        # them too. Written once, so that every page is there.
        pages = mmap.mmap(-1, self._read_mib << 20)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        self._memory = torch.frombuffer(pages, dtype=torch.float32).fill_(1.0).to(self._device)

    def stop(self) -> None:
        del self._memory

    def model(self) -> dict[str, Any]:
        """Where the model lies, what it is, and its sizes as :class:`ModelSizes` takes them."""
        from headstream.model.loading.header import read_header
        from headstream.model.loading.hf_config import read_config

        config = read_config(self._directory)
        head = config.d_vocab * config.d_model
        matrices = {
            name: entry.shape[0] * entry.shape[1]
            for path in self._directory.glob("*.safetensors")
            for name, entry in read_header(path).items()
            if len(entry.shape) == 2
        }
        tables = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "wpe.weight")
        sizes = ModelSizes(
            layer_weights=sum(n for name, n in matrices.items() if not name.endswith(tables)),
            head_weights=head,
            kv_width=2 * config.n_kv_heads * config.d_head,
            windows=tuple(spec.window for spec in config.attention),
        )
        return {
            "directory": str(self._directory),
            "architecture": config.architecture,
            "max_model_len": config.max_model_len,
            "bos_id": config.bos_id,
            "sizes": asdict(sizes),
        }

    def prompts(self, count: int, length: int, bos_id: int | None) -> list[list[int]]:
        """See :func:`bench.data.cut_prompts`."""
        from bench import data

        return data.cut_prompts(data.text_ids(self._directory), count, length, bos_id)

    def measure(self, dtype: str, seconds: float) -> dict[str, float]:
        """The limits as :class:`Machine` takes them; ``seconds`` for each of a few loops."""
        import torch

        with torch.inference_mode():
            read = max(
                self._memory.nbytes / _median_seconds(reduce, seconds)
                for reduce in (self._memory.sum, self._memory.max)
            )
            rates = [
                2 * m * k * n / _median_seconds(gemm, seconds)
                for m, k, n in GEMM_SHAPES[self._device]
                for gemm in _gemms(m, k, n, getattr(torch, dtype), self._device)
            ]
        return asdict(Machine(read_bytes=read, gemm_flops=max(rates)))


def _gemms(m: int, k: int, n: int, dtype: Any, device: str) -> list[Callable[[], object]]:
    """The product of a shape as torch offers it: plain, and packed once where this torch can."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(m, k, dtype=dtype, device=device)
    weight = torch.randn(n, k, dtype=dtype, device=device)
    ways: list[Callable[[], object]] = [lambda: F.linear(x, weight)]
    if device != "cpu":
        return ways
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, m)
        torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):  # private operators: they may be missing
        return ways
    ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
    return ways


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Median time of a run, over at least three and at least ``seconds`` of them."""
    wait = _wait_for_device()
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        wait()
        begin = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _wait_for_device() -> Callable[[], object]:
    """Waits until a GPU has done what it was given."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
