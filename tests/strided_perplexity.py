"""The strided perplexity of the `transformers` documentation, as a plain loop, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


def windows(seq_len: int, max_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Begin and end of each window, and how many of its last tokens none before it has held."""
    prev_end_loc = 0
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        yield begin_loc, end_loc, end_loc - prev_end_loc
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break


def strided_logprobs(
    model: Any, token_ids: Sequence[int], max_length: int, stride: int
) -> np.ndarray:
    """Log-probability of each token but the first: float64 [n - 1].

    The recipe's `-100` labels leave out the tokens that a window before has scored; the mean of
    its losses, weighted by their tokens, is that of these numbers.
    """
    ids = torch.tensor([list(token_ids)])
    logprobs: list[torch.Tensor] = []
    for begin_loc, end_loc, trg_len in windows(ids.size(1), max_length, stride):
        input_ids = ids[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        with torch.no_grad():
            logits = model(input_ids).logits[0, :-1].double()
        labels = target_ids[0, 1:]
        wanted = labels != -100
        rows = logits[wanted].log_softmax(1)
        logprobs.append(rows.gather(1, labels[wanted][:, None])[:, 0])
    return torch.cat(logprobs).numpy()
