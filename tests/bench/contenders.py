"""The engines that are compared. Each runs in a worker of its own (see ``worker``).

To add one: write a class with the methods of :class:`Contender`, name it in ``CONTENDERS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeVar

Prompts = list[list[int]]
ResultT = TypeVar("ResultT")

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
CONTENDERS = {
    "headstream": "bench.contenders:Headstream",
    "headstream+logprobs": "bench.contenders:HeadstreamLogprobs",
    "headstream-grpc": "bench.contenders:HeadstreamGrpc",
    "transformers": "bench.contenders:Transformers",
}
REFERENCE = "transformers"
"""Whose greedy tokens are the right ones."""
GRPC = "headstream-grpc"
"""The one that can also send rows of logits."""
OURS = tuple(name for name in CONTENDERS if name.startswith("headstream"))


class Contender(Protocol):
    """One engine with one model loaded."""

    def start(self) -> None:
        """Load the model."""
        ...

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        """Continue all prompts at once, greedily, by exactly ``new`` tokens, whatever they are."""
        ...

    def prefill(self, prompts: Prompts) -> Prompts:
        """Read all prompts and return the one greedy token that follows each."""
        ...

    def stop(self) -> None:
        """Free everything."""
        ...


class _OnLoop:
    """An asyncio loop for an object whose methods are called from outside of it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self._runner.run(work)

    def close(self) -> None:
        self._runner.close()


class Headstream:
    """The engine process alone, driven through its handle: no text, no gRPC."""

    logprobs = False

    def __init__(
        self,
        directory: str,
        dtype: Literal["float32", "bfloat16"],
        threads: int,
        cache_dir: str,
        max_num_batched_tokens: int | None = None,
    ) -> None:
        from headstream.server.engine.config import EngineConfig
        from headstream.server.engine.handle import EngineHandle

        self._loop = _OnLoop()
        self._handle = EngineHandle(
            EngineConfig(
                name="bench",
                source=directory,
                cache_dir=cache_dir,
                dtype=dtype,
                num_threads=threads,
                max_num_batched_tokens=max_num_batched_tokens,
            )
        )

    def start(self) -> None:
        self._loop.run(self._handle.start())

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        return self._loop.run(self._decode(prompts, new))

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def stop(self) -> None:
        self._loop.run(self._handle.stop())
        self._loop.close()

    async def _decode(self, prompts: Prompts, new: int) -> Prompts:
        return await asyncio.gather(*(self._continue(prompt, new) for prompt in prompts))

    async def _continue(self, prompt: Sequence[int], new: int) -> list[int]:
        from headstream.model.outputs import Outputs

        stream = self._handle.submit(
            prompt, max_new_tokens=new, outputs=Outputs(logprob=self.logprobs)
        )
        async with stream:
            return [event.token.token_id async for event in stream if event.token is not None]


class HeadstreamLogprobs(Headstream):
    """The same, each token with its log-probability: exactly what the gRPC contender asks for."""

    logprobs = True


class HeadstreamGrpc:
    """A real server in processes of its own, and the asyncio client with its defaults."""

    def __init__(
        self,
        directory: str,
        dtype: str,
        threads: int,
        cache_dir: str,
        max_num_batched_tokens: int | None = None,
    ) -> None:
        self._loop = _OnLoop()
        flags = {
            "models": f"bench={directory}",
            "cache-dir": cache_dir,
            "dtype": dtype,
            "threads": threads,
            "max-num-batched-tokens": max_num_batched_tokens,
            "max-queued-tokens": 1 << 20,  # all prompts arrive at once; none is to be refused
        }
        self._flags = [f"--{name}={value}" for name, value in flags.items() if value is not None]

    def start(self) -> None:
        from headstream.server.cli.child import ServerProcess

        self._server = ServerProcess(self._flags)
        try:
            address = self._server.wait_until_ready(lambda *_: None)
            self._loop.run(self._connect(address))
        except BaseException:
            self._server.stop()
            raise

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        return self._loop.run(self._decode(prompts, new))

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def rows(
        self, prompts: Prompts, new: int, logits: Literal["none", "top", "full"]
    ) -> dict[str, int]:
        """Decode with logits of each token; counts of tokens and of bytes of logits received."""
        received = self._loop.run(self._rows(prompts, new, logits))
        return {
            "tokens": sum(tokens for tokens, _ in received),
            "bytes": sum(size for _, size in received),
        }

    def stop(self) -> None:
        self._loop.run(self._client.close())
        self._loop.close()
        self._server.stop()

    async def _connect(self, address: str) -> None:
        from headstream.client import AsyncClient

        self._client = AsyncClient(address, stream_timeout=3600.0)
        await self._client.models()

    async def _decode(self, prompts: Prompts, new: int) -> Prompts:
        return await asyncio.gather(*(self._continue(prompt, new) for prompt in prompts))

    async def _continue(self, prompt: Sequence[int], new: int) -> list[int]:
        steps = self._client.generate(prompt, max_new_tokens=new, ignore_eos=True)
        return [step.token_id async for step in steps]

    async def _rows(
        self, prompts: Prompts, new: int, logits: Literal["none", "top", "full"]
    ) -> list[tuple[int, int]]:
        return await asyncio.gather(*(self._count(prompt, new, logits) for prompt in prompts))

    async def _count(
        self, prompt: Sequence[int], new: int, logits: Literal["none", "top", "full"]
    ) -> tuple[int, int]:
        from headstream.client import TopLogits

        tokens = size = 0
        async for step in self._client.generate(
            prompt, max_new_tokens=new, ignore_eos=True, logits=logits
        ):
            tokens += 1
            values = step.logits.values if isinstance(step.logits, TopLogits) else step.logits
            size += 0 if values is None else values.nbytes
        return tokens, size


class Transformers:
    """``generate`` of transformers: one static batch, sdpa attention."""

    PREFILL_BATCH = 8  # of 256 tokens: larger ones were not faster and take more memory

    def __init__(self, directory: str, dtype: str, threads: int, **_: object) -> None:
        self._directory = directory
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        torch.set_num_threads(self._threads)
        auto: Any = AutoModelForCausalLM
        self._model: Any = auto.from_pretrained(
            self._directory, dtype=getattr(torch, self._dtype), attn_implementation="sdpa"
        ).eval()
        # The checkpoint's own settings would sample and would stop at the end of the text.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        import torch

        ids = torch.tensor(prompts)
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
                ids = torch.tensor(prompts[start : start + self.PREFILL_BATCH])
                logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
                tokens += logits[:, -1:].argmax(dim=2).tolist()
        return tokens

    def stop(self) -> None:
        del self._model
