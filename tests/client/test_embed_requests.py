"""Arguments to requests for embeddings."""

from __future__ import annotations

from typing import Any

import pytest

from headstream.client import _embed_requests
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import tensor_pb2


def wanted(**changes: Any) -> _embed_requests.Wanted:
    return _embed_requests.embed_options(**changes)


def options(**changes: Any) -> embeddings_pb.EmbedOptions:
    return wanted(**changes).options


def test_unknown_words_are_refused_before_any_call():
    with pytest.raises(ValueError, match="pooling 'median'"):
        options(pooling="median")
    with pytest.raises(ValueError, match="unit 'word'"):
        options(unit="word")
    with pytest.raises(ValueError, match="dtype 'int4'"):
        options(dtype="int4")
    with pytest.raises(ValueError, match="one of prompt and prompt_name"):
        options(prompt="a: ", prompt_name="query")
    with pytest.raises(ValueError, match="dimensions is -1; it is at least 1"):
        options(dimensions=-1)
    with pytest.raises(ValueError, match="2 texts and the spans of 1"):
        _embed_requests.embed(["a", "b"], wanted(), model="", spans=[[(0, 1)]])
    with pytest.raises(ValueError, match="at least one span"):
        _embed_requests.embed_spans("a", [], wanted(), model="")


def test_embed_options_carry_every_choice():
    made = options(pooling="cls", layer=3, normalize=False, dimensions=64, dtype="int8")
    assert made.pooling == embeddings_pb.POOLING_CLS
    assert (made.layer, made.normalize, made.dimensions) == (3, False, 64)
    assert made.dtype == tensor_pb2.DATA_TYPE_INT8
    assert options(prompt_name="query").prompt_name == "query"
    assert options(prompt="").WhichOneof("prompt") == "prompt_text", "none, and not the default"


def test_what_is_not_said_is_left_to_the_model():
    made = options()
    assert made.pooling == embeddings_pb.POOLING_UNSPECIFIED
    assert not made.HasField("normalize")
    assert not made.HasField("dimensions")
    assert made.WhichOneof("prompt") is None


def test_a_single_string_is_one_input_not_its_letters():
    assert len(_embed_requests.embed("abc", wanted(), model="").inputs) == 1
    several = _embed_requests.embed(["abc", [1, 2]], wanted(), model="m")
    assert [item.input.WhichOneof("content") for item in several.inputs] == ["text", "token_ids"]


def test_spans_are_half_open_ranges_of_one_text():
    request = _embed_requests.embed_spans("abc", [(0, 1), (1, 3)], wanted(unit="byte"), model="")
    assert [(span.start, span.end) for span in request.inputs[0].spans] == [(0, 1), (1, 3)]
    assert request.options.offset_unit == embeddings_pb.OFFSET_UNIT_BYTE
