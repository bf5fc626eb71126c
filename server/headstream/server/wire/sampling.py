"""How tokens are drawn and when a continuation ends."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from headstream.model.outputs import SamplingParams
from headstream.server.errors import InvalidRequest, NotServed
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
    may_clip: bool  # the caller named no number: end where the context ends


def parse_sampling(field: str, message: pb.SamplingParams, limits: Limits) -> SamplingParams:
    """The way of drawing, with a seed in any case."""
    if message.HasField("n") and message.n != 1:
        raise NotServed(f"{field}.n: only 1 is served by this server")
    temperature = check_float(f"{field}.temperature", message.temperature, 0.0, MAX_TEMPERATURE)
    top_p = check_finite(f"{field}.top_p", message.top_p) if message.HasField("top_p") else 1.0
    if not 0.0 < top_p <= 1.0:
        raise InvalidRequest(f"{field}.top_p", f"{top_p:g} is not in (0, 1]")
    min_p = check_finite(f"{field}.min_p", message.min_p)
    if not 0.0 <= min_p < 1.0:
        raise InvalidRequest(f"{field}.min_p", f"{min_p:g} is not in [0, 1)")
    penalty = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    if check_finite(f"{field}.repetition_penalty", penalty) <= 0.0:
        raise InvalidRequest(f"{field}.repetition_penalty", f"{penalty:g} is not above 0")
    return SamplingParams(
        temperature=temperature,
        top_k=min(message.top_k, limits.d_vocab),
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        presence_penalty=check_finite(f"{field}.presence_penalty", message.presence_penalty),
        frequency_penalty=check_finite(f"{field}.frequency_penalty", message.frequency_penalty),
        logit_bias=_parse_bias(f"{field}.logit_bias", message, limits),
        seed=message.seed if message.HasField("seed") else secrets.randbits(SEED_BITS),
    )


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
    check_count(f"{field}.token_ids", message.token_ids, 0, MAX_STOP_TOKENS)
    check_count(f"{field}.strings", message.strings, 0, MAX_STOP_STRINGS)
    for i, text in enumerate(message.strings):
        check_int(f"{field}.strings[{i}] bytes", len(text.encode()), 1, MAX_STOP_BYTES)
    return StopRules(
        max_new_tokens=min(wanted, limits.max_new_tokens),
        token_ids=check_token_ids(f"{field}.token_ids", message.token_ids, limits.d_vocab),
        strings=tuple(message.strings),
        ignore_eos=message.ignore_eos,
        may_clip=not set_by_caller,
    )
