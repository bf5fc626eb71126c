"""Settings of one engine process, frozen; the front resolves them and hands them over."""

from __future__ import annotations

from typing import Literal

import msgspec


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model, one engine process."""

    name: str  # the name it is served under
    source: str  # embedded name, directory, GGUF file or hub id
    cache_dir: str
    manifest: str | None = None  # file of the sha256 sums that its files must have
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # auto: bfloat16 where the hardware has it
    )
    quantization: Literal["none", "int8"] = "none"  # of linears and the unembedding
    num_threads: int | None = None  # of a rank; None: one per core this process may use, shared
    tensor_parallel: int = 1  # ranks that share the model, a process each
    rank_timeout: float = 20.0  # seconds that ranks wait for each other
    max_num_batched_tokens: int | None = None  # N of a step; None: 2048 on CPU, 8192 on CUDA
    max_num_seqs: int = 64
    max_model_len: int | None = None  # None: what the model allows
    block_size: int | None = None  # tokens; None: 32 on CPU, 64 on CUDA
    kv_cache_bytes: int | None = None  # None: 2 GiB on CPU, 85% of what is free on CUDA
    prefix_caching: bool = True  # prompts share the keys and values of equal beginnings
