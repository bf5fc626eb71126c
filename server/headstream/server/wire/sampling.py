"""How tokens are drawn and when a continuation ends."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from headstream.model.outputs import SamplingParams
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import (
    check_count,
    check_finite,
    check_float,
    check_int,
    check_token_ids,
)
from headstream.v1 import logits_service_pb2 as pb

MAX_TEMPERATURE = 100.0
MAX_LOGIT_BIAS = 1024
MAX_TOKEN_LIST = 4096
MAX_STOP_TOKENS = 64
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 256
DEFAULT_NEW_TOKENS = 16
SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class StopRules:
    """When a continuation ends."""

    max_new_tokens: int
    token_ids: tuple[int, ...]
    strings: tuple[str, ...]
    ignore_eos: bool
    min_new_tokens: int
    may_clip: bool  # the caller named no number: end where the context ends


def parse_sampling(field: str, message: pb.SamplingParams, limits: Limits) -> SamplingParams:
    """The way of drawing, with a seed in any case."""
    temperature = check_float(f"{field}.temperature", message.temperature, 0.0, MAX_TEMPERATURE)
    min_p = check_finite(f"{field}.min_p", message.min_p)
    if not 0.0 <= min_p < 1.0:
        raise InvalidRequest(f"{field}.min_p", f"{min_p:g} is not in [0, 1)")
    penalty = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    if check_finite(f"{field}.repetition_penalty", penalty) <= 0.0:
        raise InvalidRequest(f"{field}.repetition_penalty", f"{penalty:g} is not above 0")
    return SamplingParams(
        temperature=temperature,
        top_k=min(message.top_k, limits.d_vocab),
        top_p=_parse_share(f"{field}.top_p", message.top_p, message.HasField("top_p")),
        min_p=min_p,
        typical_p=_parse_share(
            f"{field}.typical_p", message.typical_p, message.HasField("typical_p")
        ),
        repetition_penalty=penalty,
        presence_penalty=check_finite(f"{field}.presence_penalty", message.presence_penalty),
        frequency_penalty=check_finite(f"{field}.frequency_penalty", message.frequency_penalty),
        logit_bias=_parse_bias(f"{field}.logit_bias", message, limits),
        allowed_ids=_parse_ids(f"{field}.allowed_token_ids", message.allowed_token_ids, limits),
        forbidden_ids=_parse_ids(
            f"{field}.forbidden_token_ids", message.forbidden_token_ids, limits
        ),
        seed=message.seed if message.HasField("seed") else secrets.randbits(SEED_BITS),
    )


def parse_seeds(
    field: str, message: pb.SamplingParams, seed: int, limits: Limits
) -> tuple[int, ...]:
    """A seed for each continuation, the first as given; with it, it comes out alone the same."""
    n = message.n if message.HasField("n") else 1
    check_int(f"{field}.n", n, 1, limits.max_continuations)
    return (seed, *(_derive_seed(seed, index) for index in range(1, n)))


def _derive_seed(seed: int, index: int) -> int:
    """64 bits that neither another index nor a neighbouring seed gives."""
    key = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _parse_share(field: str, value: float, given: bool) -> float:
    """A part of all probability, in (0, 1]; 1 where nothing is said."""
    if not given:
        return 1.0
    if not 0.0 < check_finite(field, value) <= 1.0:
        raise InvalidRequest(field, f"{value:g} is not in (0, 1]")
    return value


def _parse_ids(field: str, ids: Sequence[int], limits: Limits) -> tuple[int, ...]:
    check_count(field, ids, 0, MAX_TOKEN_LIST)
    return check_token_ids(field, ids, limits.d_vocab)


def _parse_bias(field: str, message: pb.SamplingParams, limits: Limits) -> dict[int, float]:
    check_count(field, message.logit_bias, 0, MAX_LOGIT_BIAS)
    for token_id, bias in message.logit_bias.items():
        check_int(f"{field} key", token_id, 0, limits.d_vocab - 1)
        check_finite(f"{field}[{token_id}]", bias)
    return dict(message.logit_bias)


def parse_stop(field: str, message: pb.StopConditions, limits: Limits) -> StopRules:
    """When to end."""
    set_by_caller = message.HasField("max_new_tokens")
    wanted = message.max_new_tokens if set_by_caller else DEFAULT_NEW_TOKENS
    if set_by_caller:
        check_int(f"{field}.max_new_tokens", wanted, 1, limits.max_new_tokens)
    most = min(wanted, limits.max_new_tokens)
    check_int(f"{field}.min_new_tokens", message.min_new_tokens, 0, most)
    check_count(f"{field}.token_ids", message.token_ids, 0, MAX_STOP_TOKENS)
    check_count(f"{field}.strings", message.strings, 0, MAX_STOP_STRINGS)
    for i, text in enumerate(message.strings):
        check_int(f"{field}.strings[{i}] bytes", len(text.encode()), 1, MAX_STOP_BYTES)
    return StopRules(
        max_new_tokens=most,
        token_ids=check_token_ids(f"{field}.token_ids", message.token_ids, limits.d_vocab),
        strings=tuple(message.strings),
        ignore_eos=message.ignore_eos,
        min_new_tokens=message.min_new_tokens,
        may_clip=not set_by_caller,
    )
