"""From the engine's settings to a runner with a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from headstream.model import fingerprint
from headstream.model.batch import PREFILL_GRID
from headstream.model.device import check_quantization, choose_device, choose_dtype
from headstream.model.kernels import choose_kernels
from headstream.model.kv_cache import KVCache, block_bytes
from headstream.model.loading.hf_config import read_config
from headstream.model.loading.manifest import verify_manifest
from headstream.model.loading.sentence_transformer import read_sentence_transformer
from headstream.model.loading.source import resolve
from headstream.model.runner import Runner
from headstream.model.sites import site_names
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.invariance import is_batch_invariant
from headstream.server.engine.messages import Ready
from headstream.server.engine.ranks import Alone, Lead
from headstream.server.engine.scheduler import Scheduler

_BLOCK_SIZE = {"cpu": 32, "cuda": 64}
_CPU_KV_BYTES = 2 << 30
_CUDA_KV_SHARE = 0.85  # of what is free once the weights are loaded
_BUDGET = {"cpu": 2048, "cuda": 8192}

Progress = Callable[[str, int, int], None]


def build(
    config: EngineConfig, progress: Progress, address: str = ""
) -> tuple[Runner, Scheduler, Ready]:
    """Load the model and lay out the KV memory.

    ``address`` of the engine's socket: other ranks, if there are any, are met beside it.

    Raises:
        ModelError: the model cannot be loaded; the message says why.
        ValueError: settings that do not fit each other or the memory.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    cache_dir = Path(config.cache_dir)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    check_quantization(config.quantization, device)
    source = resolve(config.source, cache_dir, progress)
    if config.manifest is not None:
        verify_manifest(source, Path(config.manifest), progress)
    sentences = read_sentence_transformer(source)
    directory = sentences.directory
    progress("kernels", 0, 1)
    kernels = choose_kernels(device, cache_dir, quantization=config.quantization)
    progress("kernels", 1, 1)
    sizes = read_config(directory)
    ranks = Alone(kernels, device)
    if config.tensor_parallel > 1:
        ranks = Lead(kernels, device, config, sizes, address)
    block_size = config.block_size or _BLOCK_SIZE[device.type]
    digest = fingerprint.weights_sha256(directory, cache_dir, progress)
    model = ranks.load(directory, dtype, progress)
    budget = config.max_num_batched_tokens or _BUDGET[device.type]
    longest = min(
        sizes.max_model_len, config.max_model_len or sentences.max_tokens or sizes.max_model_len
    )
    if sizes.causal:
        bytes_each = block_bytes(model.config, block_size, dtype)
        num_blocks = _num_blocks(config, device, block_size, bytes_each)
    else:  # of the texts of one step, whatever their lengths are
        num_blocks = -(-max(budget, longest) // block_size) + config.max_num_seqs
    cache = KVCache(model.config, num_blocks, block_size, dtype, device)
    runner = ranks.make_runner(model, cache)
    if device.type == "cuda":
        progress("graphs", 0, 1)
        runner.warm_up()
        progress("graphs", 1, 1)
    scheduler = Scheduler(
        BlockPool(num_blocks, block_size),
        budget,
        config.max_num_seqs,
        prefix_caching=config.prefix_caching and sizes.causal,
    )
    ready = Ready(
        directory=str(directory),
        family=sizes.family,
        architecture=sizes.architecture,
        n_layers=sizes.n_layers,
        d_model=sizes.d_model,
        n_heads=sizes.n_heads,
        n_kv_heads=sizes.n_kv_heads,
        d_head=sizes.d_head,
        d_mlp=sizes.d_mlp,
        sites=site_names(learned_positions=not sizes.rope),
        d_vocab=sizes.d_vocab,
        causal=sizes.causal,
        unembeds=sizes.unembeds,
        embedding=sentences.defaults,
        max_model_len=min(longest, num_blocks * block_size),
        parameters=fingerprint.count_parameters(directory),
        dtype=str(dtype).removeprefix("torch."),
        quantization=config.quantization,
        backend=runner.backend,
        batch_invariant=is_batch_invariant(runner, scheduler.pool),
        weights_sha256=digest,
        eos_ids=sizes.eos_ids,
        blocks_total=num_blocks,
        block_size=block_size,
    )
    return runner, scheduler, ready


def _num_blocks(
    config: EngineConfig, device: torch.device, block_size: int, bytes_each: int
) -> int:
    """Blocks that the KV memory holds: at least those of two chunks of a prompt."""
    if config.kv_cache_bytes is not None:
        total = config.kv_cache_bytes
    elif device.type == "cuda":
        total = int(torch.cuda.mem_get_info(device)[0] * _CUDA_KV_SHARE)
    else:
        total = _CPU_KV_BYTES
    least = -(-2 * PREFILL_GRID // block_size) * bytes_each
    if total < least:
        raise ValueError(f"kv_cache_bytes is {total}, but must be at least {least}")
    return total // bytes_each
