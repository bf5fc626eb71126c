"""Every limit of a request at N and at N + 1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

import front_values
from headstream.model.outputs import EmbeddingDefaults
from headstream.server.errors import InvalidRequest
from headstream.server.wire.embed import parse_options
from headstream.server.wire.generate import parse_generate
from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import tensor_pb2, types_pb2

LIMITS = front_values.make_limits(
    d_vocab=400, max_text_bytes=20, max_new_tokens=10, max_top_k=5, max_reply_bytes=20_000
)
V, L, D = LIMITS.d_vocab, LIMITS.n_layers, LIMITS.d_model


def generate(**fields: Any) -> Any:
    fields.setdefault("prompt", types_pb2.Input(text="hi"))
    return parse_generate(pb.GenerateRequest(**fields), LIMITS)


def text(value: str) -> Any:
    return generate(prompt=types_pb2.Input(text=value))


def ids(*values: int) -> Any:
    return generate(prompt=types_pb2.Input(token_ids=types_pb2.TokenIds(ids=values)))


def chat(*messages: tuple[str, str]) -> Any:
    made = [types_pb2.ChatMessage(role=role, content=content) for role, content in messages]
    return generate(prompt=types_pb2.Input(chat=types_pb2.Chat(messages=made)))


def sampling(**fields: Any) -> Any:
    return generate(sampling=pb.SamplingParams(**fields))


def constraint(**fields: str) -> Any:
    return sampling(constraint=pb.Constraint(**fields))


def stop(**fields: Any) -> Any:
    return generate(stop=pb.StopConditions(**fields))


def logits(**fields: Any) -> Any:
    return generate(logits=pb.LogitsOptions(**fields))


def layers(*values: int) -> Any:
    selection = types_pb2.LayerSelection(layers=values)
    return generate(embeddings=pb.GeneratedEmbeddings(layers=selection))


def options(**fields: Any) -> Any:
    defaults = EmbeddingDefaults(prompts={"query": "q: "})
    return parse_options("options", embed_pb.EmbedOptions(**fields), LIMITS, defaults)


TOP_K, CHOSEN, FULL = pb.LOGITS_MODE_TOP_K, pb.LOGITS_MODE_CHOSEN, pb.LOGITS_MODE_FULL
Check = Callable[[], Any]

# field named, the last value allowed, the first refused
EDGES: list[tuple[str, Check, Check]] = [
    ("prompt.text", lambda: text("é" * 10), lambda: text("é" * 10 + "a")),
    ("prompt.text", lambda: text("a"), lambda: text("")),
    ("prompt.token_ids", lambda: ids(0), ids),
    ("prompt.token_ids.ids[1]", lambda: ids(0, V - 1), lambda: ids(0, V)),
    ("prompt.chat.messages", lambda: chat(("u", "")), chat),
    (
        "prompt.chat",
        lambda: chat(("user", "é" * 6), ("user", "")),
        lambda: chat(("user", "é" * 6), ("user", "a")),
    ),
    (
        "prompt.chat.messages[0].role",
        lambda: chat(("u", "a")),
        lambda: chat(("", "a")),
    ),
    ("sampling.temperature", lambda: sampling(temperature=0), lambda: sampling(temperature=-0.1)),
    ("sampling.temperature", lambda: sampling(temperature=100), lambda: sampling(temperature=101)),
    (
        "sampling.temperature",
        lambda: sampling(temperature=1),
        lambda: sampling(temperature=math.nan),
    ),
    ("sampling.top_p", lambda: sampling(top_p=1), lambda: sampling(top_p=1.01)),
    ("sampling.top_p", lambda: sampling(top_p=0.01), lambda: sampling(top_p=0)),
    ("sampling.min_p", lambda: sampling(min_p=0.99), lambda: sampling(min_p=1)),
    ("sampling.min_p", lambda: sampling(min_p=0), lambda: sampling(min_p=-0.01)),
    ("sampling.typical_p", lambda: sampling(typical_p=1), lambda: sampling(typical_p=1.01)),
    ("sampling.typical_p", lambda: sampling(typical_p=0.01), lambda: sampling(typical_p=0)),
    (
        "sampling.allowed_token_ids",
        lambda: sampling(allowed_token_ids=[0] * 4096),
        lambda: sampling(allowed_token_ids=[0] * 4097),
    ),
    (
        "sampling.forbidden_token_ids[1]",
        lambda: sampling(forbidden_token_ids=[0, V - 1]),
        lambda: sampling(forbidden_token_ids=[0, V]),
    ),
    ("sampling.constraint", lambda: constraint(regex="a"), constraint),
    (
        "sampling.constraint.regex",
        lambda: constraint(regex="a" * 65_536),
        lambda: constraint(regex="a" * 65_537),
    ),
    ("sampling.constraint.lark", lambda: constraint(lark="s"), lambda: constraint(lark="")),
    (
        "sampling.constraint.json_schema",
        lambda: constraint(json_schema="{}"),
        lambda: constraint(json_schema="{"),
    ),
    (
        "sampling.constraint.json_schema",
        lambda: constraint(json_schema="[" * 100 + "]" * 100),
        lambda: constraint(json_schema="[" * 30_000 + "]" * 30_000),
    ),
    (
        "stop.min_new_tokens",
        lambda: stop(min_new_tokens=3, max_new_tokens=3),
        lambda: stop(min_new_tokens=4, max_new_tokens=3),
    ),
    (
        "sampling.repetition_penalty",
        lambda: sampling(repetition_penalty=0.1),
        lambda: sampling(repetition_penalty=0),
    ),
    (
        "sampling.presence_penalty",
        lambda: sampling(presence_penalty=-3),
        lambda: sampling(presence_penalty=math.inf),
    ),
    (
        "sampling.frequency_penalty",
        lambda: sampling(frequency_penalty=3),
        lambda: sampling(frequency_penalty=-math.inf),
    ),
    (
        "sampling.logit_bias key",
        lambda: sampling(logit_bias={V - 1: 1.0}),
        lambda: sampling(logit_bias={V: 1.0}),
    ),
    (
        "sampling.logit_bias[3]",
        lambda: sampling(logit_bias={3: -100.0}),
        lambda: sampling(logit_bias={3: math.nan}),
    ),
    ("stop.max_new_tokens", lambda: stop(max_new_tokens=10), lambda: stop(max_new_tokens=11)),
    ("stop.max_new_tokens", lambda: stop(max_new_tokens=1), lambda: stop(max_new_tokens=0)),
    (
        "stop.token_ids",
        lambda: stop(token_ids=range(64)),
        lambda: stop(token_ids=range(65)),
    ),
    ("stop.token_ids[0]", lambda: stop(token_ids=[V - 1]), lambda: stop(token_ids=[V])),
    ("stop.strings", lambda: stop(strings=["a"] * 16), lambda: stop(strings=["a"] * 17)),
    ("stop.strings[0]", lambda: stop(strings=["a" * 256]), lambda: stop(strings=["a" * 257])),
    ("stop.strings[1]", lambda: stop(strings=["a", "b"]), lambda: stop(strings=["a", ""])),
    ("logits.top_k", lambda: logits(mode=TOP_K, top_k=5), lambda: logits(mode=TOP_K, top_k=6)),
    ("logits.top_k", lambda: logits(mode=TOP_K, top_k=1), lambda: logits(mode=TOP_K, top_k=0)),
    (
        "logits.token_ids",
        lambda: logits(mode=CHOSEN, token_ids=[5]),
        lambda: logits(mode=CHOSEN),
    ),
    (
        "logits.token_ids",
        lambda: logits(mode=CHOSEN, token_ids=range(5)),
        lambda: logits(mode=CHOSEN, token_ids=range(6)),
    ),
    (
        "logits.token_ids",
        lambda: logits(mode=CHOSEN, token_ids=[1, 2]),
        lambda: logits(mode=CHOSEN, token_ids=[1, 1]),
    ),
    (
        "logits.token_ids[0]",
        lambda: logits(mode=CHOSEN, token_ids=[V - 1]),
        lambda: logits(mode=CHOSEN, token_ids=[V]),
    ),
    (
        "logits.dtype",
        lambda: logits(dtype=tensor_pb2.DATA_TYPE_FLOAT16),
        lambda: logits(dtype=tensor_pb2.DATA_TYPE_INT8),
    ),
    ("logits.mode", lambda: logits(mode=CHOSEN, token_ids=[1]), lambda: logits(mode=9)),
    ("logits.scale", lambda: logits(scale=2), lambda: logits(scale=3)),
    ("embeddings.layers[0]", lambda: layers(L), lambda: layers(L + 1)),
    ("embeddings.layers[0]", lambda: layers(-L - 2), lambda: layers(-L - 3)),
    ("embeddings.layers", lambda: layers(L, -1), lambda: layers(L, -2)),
    ("options.dimensions", lambda: options(dimensions=D), lambda: options(dimensions=D + 1)),
    ("options.dimensions", lambda: options(dimensions=1), lambda: options(dimensions=0)),
    ("options.layer", lambda: options(layer=L), lambda: options(layer=L + 1)),
    ("options.pooling", lambda: options(pooling=4), lambda: options(pooling=5)),
    ("options.offset_unit", lambda: options(offset_unit=2), lambda: options(offset_unit=3)),
    (
        "options.dtype",
        lambda: options(dtype=tensor_pb2.DATA_TYPE_BINARY),
        lambda: options(dtype=tensor_pb2.DATA_TYPE_INT32),
    ),
    (
        "options.prompt_name",
        lambda: options(prompt_name="query"),
        lambda: options(prompt_name="question"),
    ),
    (
        "options.prompt_text",
        lambda: options(prompt_text="a" * 20),
        lambda: options(prompt_text="a" * 21),
    ),
]


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    EDGES,
    ids=[f"{i}-{field}" for i, (field, _, _) in enumerate(EDGES)],
)
def test_edge(field: str, allowed: Check, refused: Check) -> None:
    allowed()
    with pytest.raises(InvalidRequest, match=re.escape(field)) as caught:
        refused()
    assert caught.value.field.startswith(field)
