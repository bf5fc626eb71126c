"""Open Inference requests: what is to be computed; and the heads of their answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headstream.model.outputs import LogitsSpec
from headstream.open_inference import inference_pb2 as pb
from headstream.server.engine.messages import Ready
from headstream.server.errors import InvalidRequest, ModelNotFound
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_message
from headstream.server.wire.embed import VectorOptions, parse_options
from headstream.server.wire.fields import check_distinct
from headstream.server.wire.logits import parse_logits
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.named_tensors import parse_inputs
from headstream.server.wire.parameters import (
    CONTINUES,
    Values,
    check_parameters,
    fill_generate,
    skips_special,
    to_embed_options,
    to_logits_options,
)
from headstream.server.wire.tensors import ITEM_BYTES
from headstream.v1 import logits_service_pb2, types_pb2

EMBEDDING = "embedding"
LOGITS, LOGITS_IDS = "logits", "logits_ids"
PROMPT_LOGITS, PROMPT_LOGITS_IDS = "prompt_logits", "prompt_logits_ids"
TOKEN_IDS, TEXT = "token_ids", "text"
VERSION = "1"  # a name has one version
MAX_ID_LENGTH = 256

_NEXT = frozenset([LOGITS, LOGITS_IDS, TOKEN_IDS])
_OF_PROMPT = frozenset([PROMPT_LOGITS, PROMPT_LOGITS_IDS])
_OF_TOP = frozenset([LOGITS_IDS, PROMPT_LOGITS_IDS])
_ID_BYTES = 4

_GROUPS = re.compile(r"^(sampling|stop|logits)\.")
_WITHIN = re.compile(r"(\.input)?(\.text|\.token_ids(\.ids)?)?(?=$|\[)")  # an input of ours


@dataclass(frozen=True, slots=True)
class InferCall:
    """A checked request."""

    tensor: str  # the name of the inputs
    inputs: list[types_pb2.Input]
    wanted: tuple[str, ...]  # names of outputs
    options: VectorOptions
    logits: LogitsSpec  # of the next token
    prompt_logits: LogitsSpec  # of every position

    @property
    def goes_on(self) -> bool:
        """Whether next tokens are wanted, or their logits."""
        return not _NEXT.isdisjoint(self.wanted)

    @property
    def reads_prompt(self) -> bool:
        """Whether the logits of all positions are wanted."""
        return not _OF_PROMPT.isdisjoint(self.wanted)

    def check_size(self, limits: Limits, num_positions: int) -> None:
        """Refuse an answer that does not fit in a message.

        Args:
            limits: The model's.
            num_positions: Of each text; counts where their logits are wanted.

        Raises:
            ReplyTooLarge: It does not.
        """
        size = self.options.vector_bytes if EMBEDDING in self.wanted else 0
        size += _row_bytes(self.logits, limits)
        row = _row_bytes(self.prompt_logits, limits)
        if PROMPT_LOGITS_IDS in self.wanted:
            row += _ID_BYTES * self.prompt_logits.row_values(limits.d_vocab)
        size += num_positions * row
        check_message(len(self.inputs) * size, limits, "the tensors of the reply")


def parse_infer(request: pb.ModelInferRequest, ready: Ready, limits: Limits) -> InferCall:
    """The request, if every field keeps its limits and the answer fits in a message."""
    values = request.parameters
    if CONTINUES in values:
        raise InvalidRequest(f"parameters.{CONTINUES}", "goes with ModelStreamInfer alone")
    check_parameters(values, continues=False)
    given = (EMBEDDING, LOGITS, TOKEN_IDS) if ready.unembeds else (EMBEDDING,)
    known = (EMBEDDING, LOGITS, LOGITS_IDS, TOKEN_IDS, PROMPT_LOGITS, PROMPT_LOGITS_IDS)
    wanted = _wanted(request, given, known)
    tensor, inputs = parse_inputs(request, limits, skip_special=skips_special(values))
    options = to_embed_options(values)
    if options.truncate and any(name != EMBEDDING for name in wanted):
        raise InvalidRequest("parameters.truncate", f"goes with the output {EMBEDDING} alone")
    call = InferCall(
        tensor=tensor,
        inputs=inputs,
        wanted=wanted,
        options=parse_options("parameters", options, limits, ready.embedding),
        logits=_rows(values, limits, wanted=LOGITS in wanted or LOGITS_IDS in wanted),
        prompt_logits=_rows(values, limits, wanted=not _OF_PROMPT.isdisjoint(wanted)),
    )
    call.check_size(limits, 1)
    return call


def _rows(values: Values, limits: Limits, *, wanted: bool) -> LogitsSpec:
    return parse_logits("parameters", to_logits_options(values, rows=wanted), limits)


def _row_bytes(logits: LogitsSpec, limits: Limits) -> int:
    return logits.row_values(limits.d_vocab) * ITEM_BYTES[logits.dtype]


def parse_continue(
    request: pb.ModelInferRequest, limits: Limits
) -> tuple[logits_service_pb2.GenerateRequest, tuple[str, ...]]:
    """The request in terms of Generate, which checks it further; and the outputs wanted."""
    values = request.parameters
    check_parameters(values, continues=True)
    wanted = _wanted(request, (TEXT, TOKEN_IDS), (TEXT, TOKEN_IDS, LOGITS, LOGITS_IDS))
    tensor, inputs = parse_inputs(request, limits, skip_special=skips_special(values))
    if len(inputs) != 1:
        raise InvalidRequest(tensor, f"has {len(inputs)} rows; one at a time is continued")
    prompt = logits_service_pb2.GenerateRequest(
        model=request.model_name,
        prompt=inputs[0],
        logprob=False,
        logits=to_logits_options(values, rows=LOGITS in wanted or LOGITS_IDS in wanted),
    )
    fill_generate(prompt, values)
    return prompt, wanted


def _wanted(
    request: pb.ModelInferRequest, given: tuple[str, ...], known: Collection[str]
) -> tuple[str, ...]:
    """The outputs asked for, or all that are given unasked."""
    names = tuple(output.name for output in request.outputs)
    for i, output in enumerate(request.outputs):
        if output.name not in known:
            listed = ", ".join(known)
            raise InvalidRequest(f"outputs[{i}].name", f"{output.name[:100]!r} is none of {listed}")
        if output.parameters.keys() - {
            "binary_data"
        }:  # of HTTP, which KServe's client says here too
            raise InvalidRequest(f"outputs[{i}].parameters", "none is known")
        if output.name in _OF_TOP and "top_k" not in request.parameters:
            raise InvalidRequest(f"outputs[{i}].name", f"{output.name} go with parameters.top_k")
    check_distinct("outputs", names)
    return names or given


@contextmanager
def fields_of(tensor: str) -> Generator[None]:
    """Errors name the fields of this protocol, where those of ours were checked."""
    try:
        yield
    except InvalidRequest as error:
        field = _GROUPS.sub("parameters.", error.field)
        if field.startswith("prompt"):
            field = f"{tensor}[0]{field.removeprefix('prompt')}"
        raise InvalidRequest(_WITHIN.sub("", field), error.description) from None


def check_id(request_id: str) -> None:
    """Refuse what every answer would repeat.

    Raises:
        InvalidRequest: It is too long.
    """
    if len(request_id) > MAX_ID_LENGTH:
        limit = f"the limit is {MAX_ID_LENGTH}"
        raise InvalidRequest("id", f"has {len(request_id)} characters; {limit}")


def check_version(version: str) -> None:
    """Refuse versions that are not there.

    Raises:
        ModelNotFound: Neither none nor 1.
    """
    if version not in {"", VERSION}:
        raise ModelNotFound(f"model_version: {version[:20]!r} is not {VERSION}")


def to_response(request: pb.ModelInferRequest, name: str, ready: Ready) -> pb.ModelInferResponse:
    """An answer without its tensors yet: whose it is, and which numbers these are."""
    reply = pb.ModelInferResponse(model_name=name, model_version=VERSION, id=request.id)
    for field, value in to_fingerprint(name, ready).ListFields():
        kind: Any = {"bool_param" if isinstance(value, bool) else "string_param": value}
        reply.parameters[field.name].CopyFrom(pb.InferParameter(**kind))
    return reply
