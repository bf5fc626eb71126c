"""Damaged and hostile copies of a model's files, each made from a seed and a number alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2, 3, 7, 0.5, -0.5, 2**31, 2**63, 2**64, 10**30, 1e-300, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "two", "\ud800", "x" * 5000),
    *([], {}, [[]], [1, 2, 3], ["a"], {"a": 1}, [None], [float("nan")]),
]
DEEP = 200_000
"""Brackets in a row: more than any parser's stack takes."""


def mutate(original: Path, target: Path, seed: int, number: int) -> tuple[str, str]:
    """Write a mutant of ``original`` to ``target``; the name of its file that differs, and how."""
    rng = random.Random(f"{seed}:{number}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original, target)
    names = sorted(path.relative_to(original).as_posix() for path in original.rglob("*.json"))
    name = rng.choice([*[WEIGHTS] * len(names), *names, *["config.json", "tokenizer.json"] * 2])
    path = target / name
    kinds = _WEIGHTS if name == WEIGHTS else _JSON
    kind = rng.choice(kinds)
    data = kind(path.read_bytes(), rng)
    path.write_bytes(data)
    return name, kind.__name__.strip("_")


# --- Any file ---


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 8, 100])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([0, 1, 7, 8, 9, rng.randrange(len(data)), len(data) - 1])]


def _repeat_a_part(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    part = data[begin : begin + rng.randrange(1, 200)]
    return data[:begin] + part + data[begin:]


# --- JSON ---


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    children: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(children):
        found.append((value, key))
        if isinstance(child, dict | list):
            found += _places(child)
    return found


def _pick(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """A place; half the time one near the top, where the meaning is."""
    if rng.random() < 0.5 and isinstance(value, dict):
        return value, rng.choice(list(value))
    return rng.choice(_places(value))


def _replace_values(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 3])):
        container, key = _pick(value, rng)
        container[key] = rng.choice(ODD)
    return _dump(value)


def _scale_numbers(data: bytes, rng: random.Random) -> bytes:
    """Numbers that are plausible one by one."""
    value = json.loads(data)
    numbers = [
        (container, key)
        for container, key in _places(value)
        if type(container[key]) in {int, float}
    ]
    for container, key in rng.sample(numbers, min(len(numbers), rng.choice([1, 2]))):
        container[key] = type(container[key])(container[key] * rng.choice([-1, 0.5, 2, 4, 1000]))
    return _dump(value)


def _remove_keys(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 4])):
        container, key = _pick(value, rng)
        del container[key]
        if not value:
            break
    return _dump(value)


def _nest(data: bytes, rng: random.Random) -> bytes:
    opening = rng.choice([b"[", b'{"a":'])
    deep = opening * DEEP
    if rng.random() < 0.5:
        return deep
    return data.rstrip()[:-1] + b',"more":' + deep


def _another_document(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"null", b"[]", b"{}", b"3", b'"text"', b"\xff\xfe", b"[[1]]", b"NaN"])


def _make_config(data: bytes, rng: random.Random) -> bytes:
    """What a configuration could ask for."""
    value = json.loads(data)
    if not isinstance(value, dict):
        return _dump(rng.choice(ODD))
    heads, width = value.get("num_attention_heads", 4), value.get("head_dim", 16)
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    value |= rng.choice(
        [
            {"num_attention_heads": heads * width, "head_dim": 1},
            {"num_attention_heads": heads * width // 2, "head_dim": 2},
            {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": heads * width},
            {"num_hidden_layers": 10**9},
            {"max_position_embeddings": 10 ** rng.randrange(7, 19)},
            {"sliding_window": rng.choice([0, -1, 1, 2**31, 2**63, 1.5])},
            {"query_pre_attn_scalar": rng.choice([0, -1, 1e-300, float("nan"), "x"])},
            {"rope_parameters": rope | {"original_max_position_embeddings": rng.choice(ODD)}},
            {"rope_parameters": rope | {"factor": rng.choice(ODD)}},
            {"rope_parameters": {"rope_type": "default", "rope_theta": rng.choice(ODD)}},
            {"rope_parameters": rng.choice(ODD)},
            {"rope_theta": rng.choice([0, -1, float("nan"), float("inf"), 1e308])},
            {"rms_norm_eps": rng.choice([0, -1, float("nan"), float("inf"), 1e308])},
            {"layer_norm_eps": rng.choice([0, -1, float("nan"), "x"])},
            {"architectures": [rng.choice(["LlamaForCausalLM", "BertModel", "GPT2Model", "../x"])]},
            {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
            {"model_type": rng.choice(["llama", "gpt2", "bert", "mistral", "qwen3", "nonsense"])},
            {"layer_types": rng.choice([[], ["full_attention"] * 1000, ["x"] * 3, [3], None])},
            {"eos_token_id": rng.choice([-1, 10**12, [[1]], "x", [1.5], True])},
        ]
    )
    return _dump(value)


# --- Weights ---


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _join(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def _flip_bits_of_the_header(data: bytes, rng: random.Random) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    return _flip_bits(data[:end], rng) + data[end:]


def _lie_about_the_length(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    lies = [0, 1, length - 1, length + 1, len(data), len(data) - 8, 10**8, 2**32, 2**63, 2**64 - 1]
    return rng.choice(lies).to_bytes(8, "little") + data[8:]


def _lie_about_a_tensor(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    begin, end = entry["data_offsets"]
    lies: list[dict[str, Any]] = [
        {"data_offsets": rng.choice([[0, end - begin], [begin, end + 4], [end, begin], [-4, 0]])},
        {"data_offsets": rng.choice([[begin, 2**63], [2**64, 2**64], [0.5, 1], [], [begin], "x"])},
        {"shape": rng.choice([[], [2**40, 2**40], [-1], [0], [[1]], "12", [1.5], [2**63], None])},
        {"shape": [*reversed(entry["shape"]), 1]},
        {"dtype": rng.choice(["F8_E4M3", "I64", "BOOL", "F64", "BF16", "", "torch", 5, None])},
        {"dtype": rng.choice(ODD)},
        {"shape": rng.choice(ODD)},
    ]
    entry |= rng.choice(lies)
    return _join(_dump(header), rest)


def _rename_a_tensor(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    new = rng.choice(["", "model.", "other", name + "\n", name * 50, "\ud800", name.upper()])
    header[new] = header.pop(name)
    return _join(_dump(header), rest)


def _double_a_tensor(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    again = _dump({name: header[name]})
    return _join(_dump(header)[:-1] + b"," + again[1:], rest)


def _nest_the_header(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    return _join(_nest(_dump(header), rng), rest)


def _huge_header(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header |= {f"tensor.{number}": entry for number in range(rng.choice([1000, 100_000]))}
    return _join(_dump(header), rest)


def _numbers_that_are_none(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    pattern = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"])
    numbers = bytearray(rest)
    for _ in range(rng.choice([1, 1000])):
        at = 4 * rng.randrange(len(rest) // 4)
        numbers[at : at + 4] = pattern
    return _join(_dump(header), bytes(numbers))


Mutation = Callable[[bytes, random.Random], bytes]
_JSON: list[Mutation] = [
    *(_flip_bits, _truncate, _repeat_a_part, _nest, _another_document, _remove_keys),
    *(_replace_values, _replace_values, _replace_values, _scale_numbers, _make_config),
]
_WEIGHTS: list[Mutation] = [
    *(_flip_bits, _truncate, _repeat_a_part, _flip_bits_of_the_header, _lie_about_the_length),
    *(_lie_about_a_tensor, _lie_about_a_tensor, _rename_a_tensor, _double_a_tensor),
    *(_nest_the_header, _huge_header, _numbers_that_are_none),
]
