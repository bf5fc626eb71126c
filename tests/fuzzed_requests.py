"""Requests of every method: made of the contract itself, and good ones with damaged bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from headstream.v1 import (
    embeddings_service_pb2,
    internals_service_pb2,
    logits_service_pb2,
    model_service_pb2,
    tokenizer_service_pb2,
    types_pb2,
)

DECODER, ENCODER = "tiny", "encoder"
SERVICES = [
    service
    for module in (
        logits_service_pb2,
        embeddings_service_pb2,
        internals_service_pb2,
        tokenizer_service_pb2,
        model_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method for service in SERVICES for method in service.methods
}
ALWAYS = {"prompt", "input", "inputs", "items", "item", "text", "move", "content", "ids"}
"""Fields without which a request is refused before it is looked at."""

_FIELD = FieldDescriptor
_BITS = {_FIELD.TYPE_UINT32: 32, _FIELD.TYPE_UINT64: 64}
_small = st.integers(0, 3)
_text = st.one_of(
    st.sampled_from(["", "The chicken didn't cross the road", "日本語 שלום", "\x00", "a" * 300]),
    st.text(max_size=30),
)
_LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from([*[""] * 4, *[DECODER] * 4, *[ENCODER] * 3, "nobody"]),
    "text": _text,
    "content": _text,
    "ids": st.integers(0, 430),
    "token_ids": st.integers(0, 430),
    "generated_token_ids": st.integers(0, 430),
    "allowed_token_ids": st.integers(0, 430),
    "strings": st.text(max_size=3),
    "site": st.sampled_from(["resid_pre", "resid_post", "mlp_out", "head_out", "embed", "nowhere"]),
    "name": st.sampled_from(["resid_pre", "resid_post", "ln_final", "pattern", "nowhere"]),
    "regex": st.sampled_from(["a+", "(", "[0-9]{2}", "(a|b)*c", "\\p{L}", "a{99999}"]),
    "json_schema": st.sampled_from(["{}", '{"type": "object"}', "[", '{"$ref": "#"}', "3"]),
    "lark": st.sampled_from(['start: "a"', "start: start", "start:", "x: /a/"]),
    "vector": st.sampled_from([b"", b"\0" * 256, b"\0\0\xc0\x7f" * 64, b"123"]),
    "role": st.sampled_from(["user", "assistant", "system", ""]),
}


def field(of: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One value of a field: mostly a likely one, sometimes any that its type allows."""
    if of.message_type is not None:
        return message(of.message_type)
    likely = _LIKELY.get(of.name, _small)
    match of.type:
        case _FIELD.TYPE_STRING:
            return st.one_of(_LIKELY.get(of.name, _text), _text)
        case _FIELD.TYPE_BYTES:
            return st.one_of(_LIKELY.get(of.name, st.just(b"")), st.binary(max_size=40))
        case _FIELD.TYPE_BOOL:
            return st.booleans()
        case _FIELD.TYPE_FLOAT | _FIELD.TYPE_DOUBLE:
            return st.one_of(*[st.floats(0, 1, width=32)] * 4, st.floats(width=32))
        case _FIELD.TYPE_SINT32:
            return st.one_of(*[st.integers(-3, 3)] * 4, st.integers(-(2**31), 2**31 - 1))
        case _FIELD.TYPE_ENUM:
            return st.one_of(*[st.integers(0, 2)] * 4, st.integers(0, 7))
        case kind:
            return st.one_of(*[likely] * 6, st.integers(0, 2 ** _BITS[kind] - 1))


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
        names = {each.name} if group is None else {each.name, group.name}
        if not draw(st.integers(0, 9)) < (9 if names & ALWAYS else 3):
            continue
        _fill(draw, made, each)
    return made


def _fill(draw: st.DrawFn, made: Any, each: FieldDescriptor) -> None:
    place = getattr(made, each.name)
    if each.message_type is not None and each.message_type.GetOptions().map_entry:
        key, value = each.message_type.fields
        place.update(draw(st.dictionaries(field(key), field(value), max_size=2)))
    elif each.is_repeated:
        place.extend(draw(st.lists(field(each), min_size=1, max_size=3)))
    elif each.message_type is not None:
        place.CopyFrom(draw(field(each)))
    else:
        setattr(made, each.name, draw(field(each)))


def good(method: str) -> list[Any]:
    """Messages of a call that gets its answer."""
    text = types_pb2.Input(text="The chicken didn't cross the road")
    request: Any = GetMessageClass(METHODS[method].input_type)()
    match method:
        case "LogitsService/Decode":
            pb = logits_service_pb2
            return [
                pb.DecodeRequest(id=1, open=pb.DecodeOpen(prompt=text)),
                pb.DecodeRequest(id=2, append=pb.DecodeAppend(token_ids=[5, 6])),
                pb.DecodeRequest(id=3, fork=pb.DecodeFork(branch=0)),
                pb.DecodeRequest(id=4, rollback=pb.DecodeRollback(branch=0, length=3)),
            ]
        case "LogitsService/Generate":
            request.prompt.CopyFrom(text)
            request.stop.max_new_tokens = 4
            request.logits.mode = logits_service_pb2.LOGITS_MODE_FULL
        case "EmbeddingsService/Embed":
            request.inputs.add().input.CopyFrom(text)
        case "EmbeddingsService/EmbedStream":
            request.items.add(id=3).item.input.CopyFrom(text)
        case "LogitsService/Score":
            request.inputs.append(text)
        case "InternalsService/Trace":
            request.input.CopyFrom(text)
            request.sites.add(name="resid_post", layers=[1])
        case "TokenizerService/Tokenize":
            request.text = text.text
        case "TokenizerService/Detokenize":
            request.ids.extend([5, 6, 7])
        case "ModelService/ListModels" | "ModelService/GetModel":
            pass
        case _:
            request.input.CopyFrom(text)
    return [request]


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
    opening = st.just(good(method)[0].SerializeToString())
    return st.one_of(
        st.lists(each, max_size=4),
        st.tuples(opening, each, each).map(list),
    )


@st.composite
def damaged_calls(draw: st.DrawFn, method: str) -> list[bytes]:
    """The messages of a good call, one of them damaged."""
    messages = [each.SerializeToString() for each in good(method)]
    at = draw(st.integers(0, len(messages) - 1))
    messages[at] = draw(damaged(messages[at]))
    return messages


def replies_of(method: str, replies: list[bytes]) -> Iterator[Message]:
    """The replies of a call; they must be messages of the contract."""
    kind = GetMessageClass(METHODS[method].output_type)
    for data in replies:
        yield kind.FromString(data)
