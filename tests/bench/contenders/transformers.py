"""``transformers``: the plain way to run these weights, and the reference for what is right."""

from __future__ import annotations

from typing import Any

from bench.contenders.registry import Prompts


class Transformers:
    """``generate`` of transformers: one static batch, sdpa attention."""

    PREFILL_BATCH = 8  # of 256 tokens: larger ones were not faster and take more memory

    def __init__(
        self, directory: str, dtype: str, threads: int, device: str = "cpu", **_: object
    ) -> None:
        self._directory = directory
        self._device = device
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        torch.set_num_threads(self._threads)
        auto: Any = AutoModelForCausalLM
        self._model: Any = (
            auto.from_pretrained(
                self._directory, dtype=getattr(torch, self._dtype), attn_implementation="sdpa"
            )
            .to(self._device)
            .eval()
        )
        # The checkpoint's own settings would sample and would stop at the end of the text.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        import torch

        ids = torch.tensor(prompts, device=self._device)
        with torch.inference_mode():
            whole = self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new
            )
        tokens: Prompts = whole[:, ids.shape[1] :].tolist()
        return tokens

    def prefill(self, prompts: Prompts) -> Prompts:
        import torch

        tokens: Prompts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), self.PREFILL_BATCH):
                part = prompts[start : start + self.PREFILL_BATCH]
                ids = torch.tensor(part, device=self._device)
                logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
                tokens += logits[:, -1:].argmax(dim=2).tolist()
        return tokens

    def score(self, prompts: Prompts) -> list[list[float]]:
        import torch

        scores: list[list[float]] = []
        with torch.inference_mode():
            for (
                prompt
            ) in prompts:  # the row of logits of one token is a MiB with a large vocabulary
                ids = torch.tensor([prompt], device=self._device)
                logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                chosen = logits.gather(1, ids[0, 1:, None])[:, 0]
                scores.append((chosen - logits.logsumexp(dim=1)).tolist())
        return scores

    def logits(self, prompts: Prompts, path: str) -> None:
        import numpy as np
        import torch

        ids = torch.tensor(prompts, device=self._device)
        with torch.inference_mode():
            rows = [
                self._model(input_ids=each, use_cache=False).logits[0, :-1].float().cpu().numpy()
                for each in ids.split(1)  # [1, T] each
            ]
        np.save(path, rows)

    def stop(self) -> None:
        del self._model
