"""OpenVINO GenAI: its pipeline with continuous batching, on the exported model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.contenders.registry import Prompts
    from bench.home import Home
    from bench.install_peers import Weights

MODEL = "model"
PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def install(home: Home, weights: Weights) -> None:
    """Its packages, and the weights in its format; they stay float32, the arithmetic is chosen."""
    home.make_venv()
    # Later exporters ask for torchvision, which brings the CUDA build of torch.
    home.pip(
        "install", weights.torch, "openvino-genai==2026.4.1.0", "optimum-intel[openvino]==1.27.0"
    )
    home.run(
        *("optimum-cli", "export", "openvino", "--task", "text-generation-with-past"),
        *("--weight-format", "fp32", "-m", str(weights.directory), MODEL),
    )


class OpenVino:
    """With the defaults of its users: keys and values are kept in 8 bits."""

    def __init__(self, home: str, dtype: str, threads: int, **_: object) -> None:
        self._model = str(Path(home) / MODEL)
        self._properties: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISION[dtype],
        }

    def start(self) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._genai: Any = importlib.import_module("openvino_genai")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = 2048
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False  # the same prompts come again and again
        self._pipeline: Any = self._genai.ContinuousBatchingPipeline(
            self._model, scheduler, "CPU", self._properties
        )

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        settings = self._genai.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = new
        settings.ignore_eos = True
        settings.do_sample = False
        inputs = [self._openvino.Tensor(_row(prompt)) for prompt in prompts]
        results = self._pipeline.generate(inputs, [settings] * len(prompts))
        return [list(result.m_generation_ids[0]) for result in results]

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def describe(self) -> Mapping[str, str]:
        core = self._openvino.Core()
        kept = core.get_property("CPU", "KV_CACHE_PRECISION")
        return {
            "openvino-genai": self._genai.get_version(),
            "arithmetic": self._properties["INFERENCE_PRECISION_HINT"],
            "keys and values": kept.get_type_name(),
        }

    def stop(self) -> None:
        del self._pipeline


def _row(prompt: list[int]) -> Any:
    """Token ids int64 [1, n]."""
    numpy: Any = importlib.import_module("numpy")
    return numpy.array([prompt], dtype=numpy.int64)
