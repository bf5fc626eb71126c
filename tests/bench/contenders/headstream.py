"""Headstream itself: its engine alone, and the whole service through gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.contenders.registry import Prompts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

ResultT = TypeVar("ResultT")


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
        *,
        device: Literal["cpu", "cuda"] = "cpu",
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
                device=device,
                dtype=dtype,
                num_threads=threads,
                max_num_batched_tokens=max_num_batched_tokens,
                prefix_caching=False,  # the same prompts come again and again
            )
        )

    def start(self) -> None:
        self._loop.run(self._handle.start())

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        return self._loop.run(self._decode(prompts, new))

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def score(self, prompts: Prompts) -> list[list[float]]:
        return self._loop.run(self._score(prompts))

    def logits(self, prompts: Prompts, path: str) -> None:
        import numpy as np

        np.save(path, self._loop.run(self._rows(prompts)))

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

    async def _score(self, prompts: Prompts) -> list[list[float]]:
        return await asyncio.gather(*(self._score_one(prompt) for prompt in prompts))

    async def _score_one(self, prompt: Sequence[int]) -> list[float]:
        import numpy as np

        from headstream.model.outputs import Outputs, ScoreSpec

        logprobs: list[float] = []
        async with self._handle.submit(prompt, outputs=Outputs(score=ScoreSpec())) as stream:
            async for event in stream:
                if event.scores is not None:  # with ranks and entropies, which nobody asks for here
                    values = np.frombuffer(event.scores.values.data, np.float32)
                    logprobs += values[: event.scores.values.shape[1]].tolist()
        return logprobs

    async def _rows(self, prompts: Prompts) -> list[Rows]:
        return await asyncio.gather(*(self._rows_of(prompt) for prompt in prompts))

    async def _rows_of(self, prompt: Sequence[int]) -> Rows:
        import numpy as np

        from headstream.model.outputs import LogitsSpec, Outputs, ScoreSpec

        outputs = Outputs(score=ScoreSpec(logits=LogitsSpec("full")))
        async with self._handle.submit(prompt, outputs=outputs) as stream:
            parts = [event.scores.logits async for event in stream if event.scores is not None]
        tensors = [part for part in parts if part is not None]  # float32 [n, V] each
        rows = [np.frombuffer(each.data, np.float32).reshape(each.shape) for each in tensors]
        return np.concatenate(rows)  # [T - 1, V]


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
        *,
        device: str = "cpu",
        max_num_batched_tokens: int | None = None,
    ) -> None:
        self._loop = _OnLoop()
        self._arrivals: list[list[float]] = []
        flags = {
            "models": f"bench={directory}",
            "cache-dir": cache_dir,
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "max-num-batched-tokens": max_num_batched_tokens,
            "max-queued-tokens": 1 << 20,  # all prompts arrive at once; none is to be refused
        }
        self._flags = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        self._flags.append("--no-prefix-caching")  # the same prompts come again and again

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

    def score(self, prompts: Prompts) -> list[list[float]]:
        return self._loop.run(self._scores(prompts))

    def logits(self, prompts: Prompts, path: str) -> None:
        import numpy as np

        results = self._loop.run(self._client.score(prompts, logits="full"))
        np.save(path, [np.asarray(scores.logits, np.float32) for scores in results])

    def rows(
        self, prompts: Prompts, new: int, logits: Literal["none", "top", "full"]
    ) -> dict[str, int]:
        """Decode with logits of each token; counts of tokens and of bytes of logits received."""
        received = self._loop.run(self._rows(prompts, new, logits))
        return {
            "tokens": sum(tokens for tokens, _ in received),
            "bytes": sum(size for _, size in received),
        }

    def latencies(self) -> dict[str, list[float]]:
        """Seconds that the client waited in the last ``decode``: for each first token since all
        prompts were sent, and between each token and the next of its stream."""
        return {
            "first": [times[1] - times[0] for times in self._arrivals],
            "between": [
                later - earlier
                for times in self._arrivals
                for earlier, later in pairwise(times[1:])
            ],
        }

    def stop(self) -> None:
        self._loop.run(self._client.close())
        self._loop.close()
        self._server.stop()

    async def _scores(self, prompts: Prompts) -> list[list[float]]:
        results = await self._client.score(prompts)
        return [scores.logprobs.tolist() for scores in results]

    async def _connect(self, address: str) -> None:
        from headstream.client import AsyncClient

        self._client = AsyncClient(address, stream_timeout=3600.0)
        await self._client.models()

    async def _decode(self, prompts: Prompts, new: int) -> Prompts:
        self._arrivals = []
        return await asyncio.gather(*(self._continue(prompt, new) for prompt in prompts))

    async def _continue(self, prompt: Sequence[int], new: int) -> list[int]:
        tokens: list[int] = []
        times = [time.perf_counter()]
        async for step in self._client.generate(prompt, max_new_tokens=new, ignore_eos=True):
            tokens.append(step.token_id)
            times.append(time.perf_counter())
        self._arrivals.append(times)
        return tokens

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
