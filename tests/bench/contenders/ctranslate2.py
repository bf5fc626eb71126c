"""CTranslate2: a static batch on the converted model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.contenders.registry import Prompts
    from bench.home import Home
    from bench.install_peers import Weights

MODEL = "model"
CONVERTER = ("transformers", "safetensors", "sentencepiece")


def install(home: Home, weights: Weights) -> None:
    """Its packages, and the weights in its format, float32."""
    home.make_venv()
    home.pip("install", weights.torch, "ctranslate2==4.8.5", *CONVERTER)
    home.run(
        *("ct2-transformers-converter", "--model", str(weights.directory)),
        *("--output_dir", MODEL, "--quantization", "float32", "--force"),
    )


class CTranslate2:
    """Its generator; tokens go in as the words of its vocabulary."""

    BATCH = 4  # prompts scored at once: a float32 row of logits is a MiB with a large vocabulary

    def __init__(self, home: str, dtype: str, threads: int, **_: object) -> None:
        self._model = Path(home) / MODEL
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        self._ctranslate2: Any = importlib.import_module("ctranslate2")
        self._words = json.loads((self._model / "vocabulary.json").read_text(encoding="utf-8"))
        self._generator: Any = self._ctranslate2.Generator(
            str(self._model),
            device="cpu",
            compute_type=self._dtype,
            intra_threads=self._threads,
            inter_threads=1,
        )

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        results = self._generator.generate_batch(
            self._tokens(prompts),
            max_length=new,
            min_length=new,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return [list(result.sequences_ids[0]) for result in results]

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def score(self, prompts: Prompts) -> list[list[float]]:
        results = self._generator.score_batch(self._tokens(prompts), max_batch_size=self.BATCH)
        return [list(result.log_probs) for result in results]

    def describe(self) -> Mapping[str, str]:
        return {"ctranslate2": self._ctranslate2.__version__}

    def stop(self) -> None:
        del self._generator

    def _tokens(self, prompts: Prompts) -> list[list[str]]:
        return [[self._words[token] for token in prompt] for prompt in prompts]
