"""What makes vectors of sentences: Headstream's engine, its service, and other engines.

Each runs in a worker of its own (see ``worker``). ``embed`` is timed and keeps the vectors, mean
pooled and normed to 1; ``vectors`` tells them.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.contenders.vllm import PACKAGE, set_up_environment

Vectors = NDArray[np.float32]  # [texts, d]


class Embedder(Protocol):
    """One engine with one model loaded; text in, vectors out."""

    def start(self) -> None:
        """Load the model."""
        ...

    def embed(self, texts: Sequence[str]) -> None:
        """Make the vectors, from tokenizing to normed rows in memory."""
        ...

    def vectors(self) -> list[list[float]]:
        """Those of the last ``embed``."""
        ...

    def stop(self) -> None:
        """Free everything."""
        ...


class _Keeps:
    """Keeps the vectors of the last call."""

    _kept: Vectors

    def vectors(self) -> list[list[float]]:
        return self._kept.tolist()


class Engine(_Keeps):
    """Headstream's engine process alone, driven through its handle: no gRPC."""

    def __init__(
        self,
        directory: str,
        dtype: Literal["float32", "bfloat16"],
        threads: int,
        cache_dir: str,
    ) -> None:
        from headstream.server.engine.config import EngineConfig
        from headstream.server.engine.handle import EngineHandle

        self._runner = asyncio.Runner()
        self._directory = Path(directory)
        config = EngineConfig(
            name="bench",
            source=directory,
            cache_dir=cache_dir,
            dtype=dtype,
            num_threads=threads,
        )
        self._handle = EngineHandle(config)

    def start(self) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(self._directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._runner.run(self._handle.start())

    def embed(self, texts: Sequence[str]) -> None:
        ids = [each.ids for each in self._tokenizer.encode_batch_fast(texts)]
        rows = np.stack(self._runner.run(self._run(ids)))  # [texts, d]
        self._kept = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    async def _run(self, ids: Sequence[Sequence[int]]) -> list[Vectors]:
        return await asyncio.gather(*(self._run_one(each) for each in ids))

    async def _run_one(self, ids: Sequence[int]) -> Vectors:
        from headstream.model.batch import FINAL
        from headstream.model.outputs import Outputs, PoolSpec

        pool = PoolSpec(FINAL, "mean", (tuple(range(len(ids))),))
        async with self._handle.submit(ids, outputs=Outputs(pool=pool)) as stream:
            async for event in stream:
                if event.vectors is not None:
                    return np.frombuffer(event.vectors.data, np.float32)
        raise RuntimeError("the engine gave no vector")

    def stop(self) -> None:
        self._runner.run(self._handle.stop())
        self._runner.close()


class Served(_Keeps):
    """A real server in processes of its own, and the sync client with its defaults."""

    def __init__(
        self, directory: str, dtype: str, threads: int, cache_dir: str, *, streamed: bool
    ) -> None:
        self._streamed = streamed
        self._flags = [
            f"--models=bench={directory}",
            f"--cache-dir={cache_dir}",
            f"--dtype={dtype}",
            f"--threads={threads}",
        ]

    def start(self) -> None:
        from headstream.client import Client
        from headstream.server.cli.child import ServerProcess

        self._server = ServerProcess(self._flags)
        try:
            address = self._server.wait_until_ready(lambda *_: None)
        except BaseException:
            self._server.stop()
            raise
        self._client = Client(address)

    def embed(self, texts: Sequence[str]) -> None:
        if self._streamed:
            rows: dict[int, Any] = dict(self._client.embed_stream(texts))
            self._kept = np.stack([rows[index] for index in range(len(texts))])
        else:
            batches = [texts[at : at + 64] for at in range(0, len(texts), 64)]
            self._kept = np.concatenate([self._client.embed(batch) for batch in batches])

    def stop(self) -> None:
        self._client.close()
        self._server.stop()


class SentenceTransformers(_Keeps):
    """The library in this process, with its default batches of 32, sorted by length."""

    def __init__(self, directory: str, dtype: str, threads: int, **_: object) -> None:
        self._directory = directory
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self._threads)
        self._model = SentenceTransformer(
            self._directory, device="cpu", model_kwargs={"dtype": getattr(torch, self._dtype)}
        )

    def embed(self, texts: Sequence[str]) -> None:
        vectors: Any = self._model.encode(list(texts), normalize_embeddings=True)
        self._kept = vectors.astype(np.float32)

    def stop(self) -> None:
        del self._model


class VllmPooling(_Keeps):
    """vLLM's pooling runner on the CPU, all texts in one call."""

    def __init__(self, directory: str, dtype: str, threads: int, **_: object) -> None:
        self._directory = directory
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        set_up_environment(self._threads, kv_gib=1)
        self._vllm: Any = importlib.import_module("vllm")
        self._engine: Any = self._vllm.LLM(
            model=self._directory,
            runner="pooling",
            dtype=self._dtype,
            max_model_len=256,
            disable_log_stats=True,
        )

    def embed(self, texts: Sequence[str]) -> None:
        results = self._engine.embed(list(texts), use_tqdm=False)
        rows = np.array([each.outputs.embedding for each in results], np.float32)
        self._kept = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def describe(self) -> Mapping[str, str]:
        """Its version."""
        return {PACKAGE: self._vllm.__version__}

    def stop(self) -> None:
        del self._engine
