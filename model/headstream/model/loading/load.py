"""A checkpoint directory to a model."""

from __future__ import annotations

from pathlib import Path

import torch

from headstream.model.families import build_model
from headstream.model.families.base import Model
from headstream.model.kernels import Kernels
from headstream.model.loading.checkpoint import CPU, Checkpoint
from headstream.model.loading.hf_config import read_config
from headstream.model.loading.progress import Progress, silent
from headstream.model.parallel.split import Split, split_config
from headstream.model.parallel.weights import SplitWeights


def load_model(
    directory: Path,
    dtype: torch.dtype,
    kernels: Kernels,
    progress: Progress = silent,
    *,
    device: torch.device = CPU,
    split: Split | None = None,
) -> Model:
    """Read the config and weights in ``directory`` and build the model.

    Args:
        directory: config.json and safetensors, as Hugging Face saves them (see ``resolve``).
        dtype: of all weights, float32 or bfloat16.
        kernels: what its layers compute with.
        progress: told how many tensors are read.
        device: where the weights live.
        split: the part of one rank; None: the whole model. ``kernels`` add up what ranks compute.

    Raises:
        UnsupportedModelError: the checkpoint asks for something that is not implemented.
        CheckpointError: the checkpoint is damaged, incomplete or holds unknown tensors.
    """
    config = read_config(directory)
    checkpoint = Checkpoint(directory, dtype, progress, device)
    if split is None:
        model = build_model(config, checkpoint, kernels)
    else:
        weights = SplitWeights(checkpoint, config, split)
        model = build_model(split_config(config, split), weights, kernels)
    checkpoint.check_all_used()
    return model
