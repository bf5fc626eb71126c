"""The parameters of an Open Inference request, written into messages of our own contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from headstream.open_inference import inference_pb2 as pb
from headstream.server.errors import InvalidRequest
from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import logits_service_pb2 as logits_pb

Values = Mapping[str, pb.InferParameter]

CONTINUES = "max_new_tokens"
"""With this parameter a request of a stream is continued."""

_EMBED = frozenset(
    ["pooling", "layer", "normalize", "dimensions", "truncate", "prompt_name", "prompt_text"]
)
_DRAWING = frozenset(["temperature", "top_p", "min_p", "typical_p", "seed"])
_PENALTIES = frozenset(["repetition_penalty", "presence_penalty", "frequency_penalty"])
_SAMPLING = _DRAWING | _PENALTIES
_STOP = frozenset([CONTINUES, "min_new_tokens", "ignore_eos"])
_LOGITS = frozenset(["top_k"])
_INPUT = frozenset(["skip_special_tokens"])
_NO_MATTER = frozenset(["triton_enable_empty_final_response"])  # there always is a final response
_INFER = _EMBED | _LOGITS | _INPUT | _NO_MATTER
_CONTINUE = _SAMPLING | _STOP | _LOGITS | _INPUT | _NO_MATTER

_WHOLE = frozenset(
    [FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64]
)


def check_parameters(values: Values, *, continues: bool) -> None:
    """Refuse what is not known: a name misspelt would be a default."""
    known = _CONTINUE if continues else _INFER
    for name in values:
        if name not in known:
            listed = ", ".join(sorted(known - _NO_MATTER))
            raise InvalidRequest(f"parameters.{name[:100]}", f"is none of {listed}")


def skips_special(values: Values) -> bool:
    """Whether the tokenizer's special tokens are left out of texts."""
    return "skip_special_tokens" in values and bool(
        _read("skip_special_tokens", values, FieldDescriptor.CPPTYPE_BOOL)
    )


def to_embed_options(values: Values) -> embed_pb.EmbedOptions:
    """How vectors are made."""
    options = embed_pb.EmbedOptions()
    _fill(options, values, _EMBED)
    return options


def to_logits_options(values: Values, *, rows: bool) -> logits_pb.LogitsOptions:
    """Which logits are sent: whole rows, if any are wanted, or their largest entries."""
    options = logits_pb.LogitsOptions()
    _fill(options, values, _LOGITS)
    if rows:
        largest = options.HasField("top_k")
        options.mode = logits_pb.LOGITS_MODE_TOP_K if largest else logits_pb.LOGITS_MODE_FULL
    return options


def fill_generate(request: logits_pb.GenerateRequest, values: Values) -> None:
    """How a prompt is continued."""
    _fill(request.sampling, values, _SAMPLING)
    _fill(request.stop, values, _STOP)


def _fill(message: Message, values: Values, names: frozenset[str]) -> None:
    for name in names & values.keys():
        field = message.DESCRIPTOR.fields_by_name[name]
        value = _read(name, values, field.cpp_type)
        if field.enum_type is not None:
            value = _number_of(name, str(value), field.enum_type.values_by_name)
        try:
            setattr(message, name, value)
        except ValueError:
            raise InvalidRequest(f"parameters.{name}", f"{value} is out of range") from None


def _number_of(name: str, word: str, values: Mapping[str, Any]) -> int:
    """Of a value of an enum, in lower case and without the enum's name, which is the field's."""
    known = {each.removeprefix(f"{name.upper()}_").lower(): each for each in values}
    del known["unspecified"]
    if word not in known:
        raise InvalidRequest(f"parameters.{name}", f"must be one of {', '.join(known)}")
    number: int = values[known[word]].number
    return number


def _read(name: str, values: Values, kind: int) -> bool | float | str:
    parameter = values[name]
    given = parameter.WhichOneof("parameter_choice")
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if given == "bool_param":
            return parameter.bool_param
        raise InvalidRequest(f"parameters.{name}", "must be a bool_param")
    if kind in {FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_ENUM}:
        if given == "string_param":
            return parameter.string_param
        raise InvalidRequest(f"parameters.{name}", "must be a string_param")
    if given == "int64_param":
        return parameter.int64_param
    if given == "uint64_param":
        return parameter.uint64_param
    if kind in _WHOLE:
        raise InvalidRequest(f"parameters.{name}", "must be an int64_param")
    if given == "double_param":
        return parameter.double_param
    raise InvalidRequest(f"parameters.{name}", "must be a double_param")
