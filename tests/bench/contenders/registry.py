"""The engines that are compared, by name. Each runs in a worker of its own (see ``worker``).

To add one: write a file with a class that has the methods of :class:`Contender`, name it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Prompts = list[list[int]]
Kind = Literal["decode", "prefill", "score"]

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class Contender(Protocol):
    """One engine with one model loaded.

    A method returns its answer and is timed from outside, or it returns a ``worker.Reply`` with
    seconds it measured itself.
    """

    def start(self) -> None:
        """Load the model."""
        ...

    def decode(self, prompts: Prompts, new: int) -> Prompts | None:
        """Continue all prompts at once, greedily, by exactly ``new`` tokens, whatever they are.

        None: the engine counts its tokens and does not tell them.
        """
        ...

    def prefill(self, prompts: Prompts) -> Prompts | None:
        """Read all prompts and return the one greedy token that follows each."""
        ...

    def stop(self) -> None:
        """Free everything."""
        ...


class Scorer(Contender, Protocol):
    """One that can also say how likely a given text is."""

    def score(self, prompts: Prompts) -> list[list[float]]:
        """Log-probability of each token of each prompt but its first, given those before it."""
        ...


class Shower(Contender, Protocol):
    """One whose rows of logits can be compared."""

    def logits(self, prompts: Prompts, path: str) -> None:
        """Write the row behind each token of each prompt but its last: float32 [P, T - 1, V].

        The prompts have T tokens each; the file is numpy's (.npy).
        """
        ...


class Peer(Contender, Protocol):
    """One that is installed in an environment of its own (see ``home``)."""

    def describe(self) -> Mapping[str, str]:
        """Its version, and settings of it that change what it computes."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What a contender can do."""

    target: str  # module:Class
    answers: tuple[Kind, ...] = ("decode", "prefill")
    dtypes: tuple[str, ...] = tuple(DTYPES.values())
    is_peer: bool = False


CONTENDERS: Mapping[str, Entry] = {
    "headstream": Entry(
        "bench.contenders.headstream:Headstream", answers=("decode", "prefill", "score")
    ),
    "headstream+logprobs": Entry("bench.contenders.headstream:HeadstreamLogprobs"),
    "headstream-grpc": Entry(
        "bench.contenders.headstream:HeadstreamGrpc", answers=("decode", "prefill", "score")
    ),
    "openvino": Entry("bench.contenders.openvino:OpenVino", is_peer=True),
    "vllm": Entry(
        "bench.contenders.vllm:Vllm", answers=("decode", "prefill", "score"), is_peer=True
    ),
    "llama.cpp": Entry("bench.contenders.llama_cpp:LlamaCpp", is_peer=True),
    "ctranslate2": Entry(
        "bench.contenders.ctranslate2:CTranslate2",
        answers=("decode", "prefill", "score"),
        dtypes=("float32",),  # it refuses bfloat16 on a CPU
        is_peer=True,
    ),
    "transformers": Entry(
        "bench.contenders.transformers:Transformers", answers=("decode", "prefill", "score")
    ),
}
REFERENCE = "transformers"
"""Whose greedy tokens and log-probabilities are the right ones."""
GRPC = "headstream-grpc"
"""The one that can also send rows of logits, and that notes when each token arrived."""
SHOWS_LOGITS = ("headstream", GRPC, REFERENCE)
"""Those that have :meth:`Shower.logits`."""
OURS = tuple(name for name in CONTENDERS if name.startswith("headstream"))
PEERS = tuple(name for name, entry in CONTENDERS.items() if entry.is_peer)
