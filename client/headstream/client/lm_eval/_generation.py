"""What a task asks of a continuation, in `lm_eval`'s terms and in those of `Client.generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.models import utils

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What a server takes; the text is cut at the others when it is complete.
_MAX_STOPS = 16
_MAX_STOP_BYTES = 256

_ALWAYS = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "seed"})
_WHEN_SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})
_ONE = frozenset({"num_beams", "num_return_sequences"})


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation to generate."""

    max_new_tokens: int
    until: Sequence[str]  # the text ends before the first of them
    sampling: Mapping[str, Any]  # arguments of `Client.generate`

    @property
    def stop(self) -> list[str]:
        """The strings that the server can watch for."""
        able = [text for text in self.until if 0 < len(text.encode()) <= _MAX_STOP_BYTES]
        return able[:_MAX_STOPS]

    def cut(self, text: str) -> str:
        """The text up to the first of `until`."""
        cut: str = utils.postprocess_generated_text(text, list(self.until), None)
        return cut


def parse(gen_kwargs: Mapping[str, Any], *, max_new_tokens: int, eos_text: str) -> Continuation:
    """The `generation_kwargs` of a task.

    Args:
        gen_kwargs: As they stand there.
        max_new_tokens: Where they do not say.
        eos_text: Ends a text too, should the model spell it out.

    Raises:
        ValueError: They ask for what is not there, such as beams.
    """
    given: dict[str, Any] = {**utils.normalize_gen_kwargs(dict(gen_kwargs), max_new_tokens)}
    until: list[str] = utils.handle_stop_sequences(given.pop("until"), eos=eos_text)
    count: int = given.pop("max_gen_toks")
    sampled: bool = given.pop("do_sample")
    sampling: dict[str, Any] = {}
    for name, value in given.items():
        if name in _ALWAYS or (name in _WHEN_SAMPLING and sampled):
            sampling[name] = value
        elif name not in _WHEN_SAMPLING and not (name in _ONE and value == 1):
            raise ValueError(f"generation_kwargs: {name}={value!r} is not supported")
    return Continuation(count, until, sampling)
