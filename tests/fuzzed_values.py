"""Values for the fields of the contract: mostly likely ones, sometimes any that the type allows."""

from __future__ import annotations

import random
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

DECODER, ENCODER = "tiny", "encoder"
USUAL = 0.8  # the share of likely values, where there are any
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan")]

_FIELD = FieldDescriptor
_UNSIGNED = {_FIELD.TYPE_UINT32: 32, _FIELD.TYPE_UINT64: 64}
_SIGNED = {_FIELD.TYPE_SINT32: 32, _FIELD.TYPE_INT32: 32, _FIELD.TYPE_INT64: 64}
_TEXTS = ["", "The chicken didn't cross the road", "日本語 שלום", "\x00", "a" * 300]
_MODELS = [*[""] * 4, *[DECODER] * 4, *[ENCODER] * 3, "nobody"]
_IDS = [*range(431)]
_KEYS = ["lang", "kind", "_a.b-c", "1x", ""]
_DOCUMENTS = [*map(str, range(100)), *["a", "b", "d'; DROP", "é" * 200] * 5]
_LIKELY: dict[str, list[Any]] = {
    "model": _MODELS,
    "model_name": _MODELS,
    "model_version": ["", "", "", "1", "2"],
    "ids": _IDS,
    "token_ids": _IDS,
    "generated_token_ids": _IDS,
    "allowed_token_ids": _IDS,
    "strings": ["", "a", "ab", " ca", "\x00"],
    "site": ["resid_pre", "resid_post", "mlp_out", "head_out", "embed", "nowhere"],
    "name": ["resid_pre", "resid_post", "ln_final", "pattern", "nowhere"],
    "regex": ["a+", "(", "[0-9]{2}", "(a|b)*c", "\\p{L}", "a{99999}"],
    "json_schema": ["{}", '{"type": "object"}', "[", '{"$ref": "#"}', "3"],
    "lark": ['start: "a"', "start: start", "start:", "x: /a/"],
    "vector": [b"", b"\0" * 256, b"\0\0\xc0\x7f" * 64, b"123"],
    "role": ["user", "assistant", "system", ""],
    # The Open Inference Protocol
    "InferInputTensor.name": ["text", "text", "input_ids", "images"],
    "InferRequestedOutputTensor.name": [
        *("embedding", "logits", "logits_ids", "token_ids", "text", "prompt_logits"),
    ],
    "datatype": ["BYTES", "BYTES", "BYTES", "INT64", "INT32", "FP32"],
    "shape": [1, 1, 1, 2, 3, -1, 0, 2**40],
    "raw_input_contents": [b"\x03\0\0\0cat", b"\5" + b"\0" * 7, b"\xff" * 8, b""],
    "bytes_contents": [b"cat", b"", b"\xff"],
    "ParametersEntry.key": [
        *("pooling", "layer", "normalize", "dimensions", "truncate", "prompt_name", "top_k"),
        *("max_new_tokens", "temperature", "seed", "skip_special_tokens", "no_such"),
    ],
    "string_param": ["mean", "last", "cls", "query", ""],
    # The lookup service
    "Document.id": _DOCUMENTS,
    "document_ids": _DOCUMENTS,
    "DeleteDocumentsRequest.ids": _DOCUMENTS,
    "MetadataEntry.key": _KEYS,
    "Condition.key": _KEYS,
    "any_of": ["en", "'", "%", ""],
}


def qualified(field: FieldDescriptor) -> str:
    """With the name of its message."""
    return ".".join(field.full_name.split(".")[-2:])


def value(rng: random.Random, field: FieldDescriptor) -> Any:
    """Of a field that is no message."""
    likely = _LIKELY.get(qualified(field), _LIKELY.get(field.name))
    if likely is not None and rng.random() < USUAL:
        return rng.choice(likely)
    return _any(rng, field.type)


def text(rng: random.Random) -> str:
    """One of a few, or some characters of any kind."""
    if rng.random() < 0.5:
        return rng.choice(_TEXTS)
    highest = rng.choice([0x7F, 0x7FF, 0xFFFF, 0x10FFFF])
    points = [rng.randrange(highest + 1) for _ in range(rng.randrange(30))]
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _any(rng: random.Random, kind: int) -> Any:
    match kind:
        case _FIELD.TYPE_STRING:
            return text(rng)
        case _FIELD.TYPE_BYTES:
            return rng.randbytes(rng.randrange(40))
        case _FIELD.TYPE_BOOL:
            return rng.random() < 0.5
        case _FIELD.TYPE_FLOAT | _FIELD.TYPE_DOUBLE:
            return _number(rng)
        case _FIELD.TYPE_ENUM:
            return rng.randrange(3 if rng.random() < USUAL else 8)
        case signed if signed in _SIGNED:
            most = 2 ** (_SIGNED[signed] - 1)
            return _whole(rng, -3, -most, most - 1)
        case unsigned:
            return _whole(rng, 0, 0, 2 ** _UNSIGNED[unsigned] - 1)


def _number(rng: random.Random) -> float:
    if rng.random() < USUAL:
        return rng.random()
    if rng.random() < 0.5:
        return rng.choice(FLOATS)
    number: float = struct.unpack("<f", rng.randbytes(4))[0]
    return number


def _whole(rng: random.Random, usual: int, least: int, most: int) -> int:
    if rng.random() < USUAL:
        return rng.randint(usual, 3)
    return rng.choice([least, most, rng.randint(least, most), rng.randrange(2**12)])
