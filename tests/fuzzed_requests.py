"""Requests of every method: made of the contract itself, and good ones with damaged bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from good_calls import good_calls
from served_methods import METHODS

DECODER, ENCODER = "tiny", "encoder"
ALWAYS = {
    *("prompt", "input", "inputs", "items", "item", "text", "move", "content", "ids"),
    *("InferInputTensor.name", "datatype", "shape", "raw_input_contents", "parameter_choice"),
    *("documents", "Document.id", "query", "any_of", "Condition.key"),
}
"""Fields without which a request is refused before it is looked at."""

_FIELD = FieldDescriptor
_UNSIGNED = {_FIELD.TYPE_UINT32: 32, _FIELD.TYPE_UINT64: 64}
_SIGNED = {_FIELD.TYPE_SINT32: 32, _FIELD.TYPE_INT32: 32, _FIELD.TYPE_INT64: 64}
_small = st.integers(0, 3)
_text = st.one_of(
    st.sampled_from(["", "The chicken didn't cross the road", "日本語 שלום", "\x00", "a" * 300]),
    st.text(max_size=30),
)
_model = st.sampled_from([*[""] * 4, *[DECODER] * 4, *[ENCODER] * 3, "nobody"])
_id = st.integers(0, 430)
_key = st.sampled_from(["lang", "kind", "_a.b-c", "1x", ""])
_document = st.one_of(
    *[st.integers(0, 99).map(str)] * 4, st.sampled_from(["a", "b", "d'; DROP", "é" * 200])
)
_LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "model": _model,
    "model_name": _model,
    "model_version": st.sampled_from(["", "", "", "1", "2"]),
    "text": _text,
    "content": _text,
    "ids": _id,
    "token_ids": _id,
    "generated_token_ids": _id,
    "allowed_token_ids": _id,
    "strings": st.text(max_size=3),
    "site": st.sampled_from(["resid_pre", "resid_post", "mlp_out", "head_out", "embed", "nowhere"]),
    "name": st.sampled_from(["resid_pre", "resid_post", "ln_final", "pattern", "nowhere"]),
    "regex": st.sampled_from(["a+", "(", "[0-9]{2}", "(a|b)*c", "\\p{L}", "a{99999}"]),
    "json_schema": st.sampled_from(["{}", '{"type": "object"}', "[", '{"$ref": "#"}', "3"]),
    "lark": st.sampled_from(['start: "a"', "start: start", "start:", "x: /a/"]),
    "vector": st.sampled_from([b"", b"\0" * 256, b"\0\0\xc0\x7f" * 64, b"123"]),
    "role": st.sampled_from(["user", "assistant", "system", ""]),
    # The Open Inference Protocol
    "InferInputTensor.name": st.sampled_from(["text", "text", "input_ids", "images"]),
    "InferRequestedOutputTensor.name": st.sampled_from(
        ["embedding", "logits", "logits_ids", "token_ids", "text", "all"]
    ),
    "datatype": st.sampled_from(["BYTES", "BYTES", "BYTES", "INT64", "INT32", "FP32"]),
    "shape": st.sampled_from([1, 1, 1, 2, 3, -1, 0, 2**40]),
    "raw_input_contents": st.sampled_from([b"\x03\0\0\0cat", b"\5" + b"\0" * 7, b"\xff" * 8, b""]),
    "bytes_contents": st.sampled_from([b"cat", b"", b"\xff"]),
    "ParametersEntry.key": st.sampled_from(
        [
            *("pooling", "layer", "normalize", "dimensions", "truncate", "prompt_name", "top_k"),
            *("max_new_tokens", "temperature", "seed", "skip_special_tokens", "no_such"),
        ]
    ),
    "string_param": st.sampled_from(["mean", "last", "cls", "query", ""]),
    # The lookup service
    "Document.id": _document,
    "document_ids": _document,
    "DeleteDocumentsRequest.ids": _document,
    "MetadataEntry.key": _key,
    "Condition.key": _key,
    "any_of": st.sampled_from(["en", "'", "%", ""]),
}


def field(of: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One value of a field: mostly a likely one, sometimes any that its type allows."""
    if of.message_type is not None:
        return message(of.message_type)
    likely = _LIKELY.get(_qualified(of), _LIKELY.get(of.name))
    match of.type:
        case _FIELD.TYPE_STRING:
            return st.one_of(_text if likely is None else likely, _text)
        case _FIELD.TYPE_BYTES:
            return st.one_of(st.just(b"") if likely is None else likely, st.binary(max_size=40))
        case _FIELD.TYPE_BOOL:
            return st.booleans()
        case _FIELD.TYPE_FLOAT | _FIELD.TYPE_DOUBLE:
            return st.one_of(*[st.floats(0, 1, width=32)] * 4, st.floats(width=32))
        case _FIELD.TYPE_ENUM:
            return st.one_of(*[st.integers(0, 2)] * 4, st.integers(0, 7))
        case kind if kind in _SIGNED:
            most = 2 ** (_SIGNED[kind] - 1)
            usual = st.integers(-3, 3) if likely is None else likely
            return st.one_of(*[usual] * 4, st.integers(-most, most - 1))
        case kind:
            usual = _small if likely is None else likely
            return st.one_of(*[usual] * 6, st.integers(0, 2 ** _UNSIGNED[kind] - 1))


def _qualified(of: FieldDescriptor) -> str:
    return f"{of.containing_type.name}.{of.name}"


@st.composite
def message(draw: st.DrawFn, of: Descriptor) -> Message:
    """A message whose fields are there or not, one at most of each oneof."""
    made = GetMessageClass(of)()
    chosen = {
        name: draw(st.sampled_from(list(group.fields)))
        for name, group in of.oneofs_by_name.items()
        if len(group.fields) > 1
    }
    for each in of.fields:
        group = each.containing_oneof
        if group is not None and group.name in chosen and chosen[group.name] is not each:
            continue
        names = {each.name, _qualified(each)} | ({group.name} if group is not None else set())
        if not draw(st.integers(0, 9)) < (9 if names & ALWAYS else 3):
            continue
        _fill(draw, made, each)
    return made


def _fill(draw: st.DrawFn, made: Any, each: FieldDescriptor) -> None:
    place = getattr(made, each.name)
    if each.message_type is not None and each.message_type.GetOptions().map_entry:
        key, value = each.message_type.fields
        entries = draw(st.dictionaries(field(key), field(value), max_size=2))
        if value.message_type is None:
            place.update(entries)
        else:
            for name, entry in entries.items():
                place[name].CopyFrom(entry)
    elif each.is_repeated:
        place.extend(draw(st.lists(field(each), min_size=1, max_size=3)))
    elif each.message_type is not None:
        place.CopyFrom(draw(field(each)))
    else:
        setattr(made, each.name, draw(field(each)))


@cache
def serialized(method: str) -> list[list[bytes]]:
    """The good calls of a method."""
    return [[each.SerializeToString() for each in call] for call in good_calls(method)]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a message, changed in a few places."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + draw(st.binary(max_size=8)) + data[at:]
            case 3:
                data = data[:at] + data[at + draw(st.integers(1, 4)) :]
            case 4:
                data += data[at:]  # messages behind one another are merged
            case _:  # a length or a number beyond everything
                data = data[:at] + b"\xff" * draw(st.integers(1, 10)) + b"\x7f" + data[at:]
    return data


def made_calls(method: str) -> st.SearchStrategy[list[bytes]]:
    """The messages of one call, made of the contract."""
    each = message(METHODS[method].input_type).map(lambda made: made.SerializeToString())
    if not METHODS[method].client_streaming:
        return each.map(lambda data: [data])
    opening = st.just(serialized(method)[0][0])
    return st.one_of(
        st.lists(each, max_size=4),
        st.tuples(opening, each, each).map(list),
    )


@st.composite
def damaged_calls(draw: st.DrawFn, method: str) -> list[bytes]:
    """The messages of a good call, one of them damaged."""
    messages = [*draw(st.sampled_from(serialized(method)))]
    at = draw(st.integers(0, len(messages) - 1))
    messages[at] = draw(damaged(messages[at]))
    return messages


def replies_of(method: str, replies: list[bytes]) -> Iterator[Message]:
    """The replies of a call; they must be messages of the contract."""
    kind = GetMessageClass(METHODS[method].output_type)
    for data in replies:
        yield kind.FromString(data)
