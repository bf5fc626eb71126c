"""Who computes the model of an engine: its process alone, or several ranks that it leads."""

from __future__ import annotations

from pathlib import Path

import torch

from headstream.model.config import ModelConfig
from headstream.model.device import check_ranks, choose_device, choose_dtype
from headstream.model.families.base import Model
from headstream.model.kernels import Kernels, choose_kernels
from headstream.model.kv_cache import KVCache
from headstream.model.loading.hf_config import read_config
from headstream.model.loading.load import load_model
from headstream.model.loading.progress import Progress, silent
from headstream.model.parallel.follow import follow
from headstream.model.parallel.group import Group
from headstream.model.parallel.kernels import split_kernels
from headstream.model.parallel.lead import LeadRunner, lead_kernels
from headstream.model.parallel.split import Split, check_split
from headstream.model.runner import Runner
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.meeting import Meeting


class Alone:
    """One process computes all."""

    def __init__(self, kernels: Kernels, device: torch.device) -> None:
        self._kernels = kernels
        self._device = device

    def load(self, directory: Path, dtype: torch.dtype, progress: Progress) -> Model:
        """The model, of which this process may hold a part."""
        return load_model(directory, dtype, self._kernels, progress, device=self._device)

    def make_runner(self, model: Model, cache: KVCache) -> Runner:
        """The runner, when everybody is ready."""
        return Runner(model, cache, self._kernels)


class Lead(Alone):
    """Rank 0: its runner makes the others do their part."""

    def __init__(
        self,
        kernels: Kernels,
        device: torch.device,
        config: EngineConfig,
        sizes: ModelConfig,
        address: str,
    ) -> None:
        """``sizes`` of the whole model; ``address`` of the engine's socket.

        Raises:
            ModelError: the model cannot be split so, or there are too few devices.
        """
        super().__init__(kernels, device)
        check_split(sizes, config.tensor_parallel)
        check_ranks(config.tensor_parallel, device)
        self._config = config
        self._d_vocab = sizes.d_vocab
        self._meeting = Meeting(address, config.tensor_parallel)

    def load(self, directory: Path, dtype: torch.dtype, progress: Progress) -> Model:
        """The others load theirs at the same time."""
        self._meeting.tell_checkpoint(directory)
        self._group = _join(self._meeting, self._config, 0, self._device)
        split = split_kernels(self._kernels, self._group, self._d_vocab)
        self._kernels = lead_kernels(split, self._group)
        return load_model(
            directory,
            dtype,
            self._kernels,
            progress,
            device=self._device,
            split=self._group.split,
        )

    def make_runner(self, model: Model, cache: KVCache) -> Runner:
        """From here on the others wait for commands, and not for longer than the timeout."""
        self._meeting.tell_memory(cache.num_blocks, cache.block_size)
        return LeadRunner(model, cache, self._kernels, self._group)


def _join(meeting: Meeting, config: EngineConfig, rank: int, device: torch.device) -> Group:
    split = Split(rank, config.tensor_parallel)
    return Group(split, meeting.store, config.rank_timeout, device)


def run_follower(config: EngineConfig, address: str, rank: int) -> None:
    """One of the other ranks, to its end."""
    meeting = Meeting(address, config.tensor_parallel)
    directory = meeting.hear_checkpoint(rank)
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    group = _join(meeting, config, rank, device)
    dtype = choose_dtype(config.dtype, device)
    plain = choose_kernels(device, Path(config.cache_dir), quantization=config.quantization)
    kernels = split_kernels(plain, group, read_config(directory).d_vocab)
    model = load_model(directory, dtype, kernels, silent, device=device, split=group.split)
    num_blocks, block_size = meeting.hear_memory(rank)
    cache = KVCache(model.config, num_blocks, block_size, dtype, device)
    follow(Runner(model, cache, kernels, graphs=False), group)
