from typing import Any

import pytest

from headstream.client import _inputs, _requests
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tensor_pb2


def logits(wanted, *, top_logits=10, logprobs=False, dtype: Any = "float32"):
    return _requests.logits_options(wanted, top_logits=top_logits, logprobs=logprobs, dtype=dtype)


def test_text_and_token_ids_are_told_apart():
    assert _inputs.text_input("a", skip_special_tokens=True).skip_special_tokens
    assert _inputs.text_input("a").text == "a"
    assert list(_inputs.text_input([1, 2]).token_ids.ids) == [1, 2]


def test_a_chat_is_a_list_of_messages():
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
    chat = _inputs.text_input(messages, add_generation_prompt=True).chat
    assert [(message.role, message.content) for message in chat.messages] == [
        ("system", "b"),
        ("user", "a"),
    ]
    assert chat.add_generation_prompt
    assert not _inputs.text_input(messages).chat.add_generation_prompt
    assert _inputs.text_input([]).WhichOneof("content") == "token_ids"
    with pytest.raises(ValueError, match="name"):
        _inputs.text_input([{"role": "user", "name": "a"}])


def test_one_constraint_at_most():
    assert _requests.constraint(None, None, None) is None
    assert _requests.constraint("a+", None, None) == logits_pb.Constraint(regex="a+")
    assert _requests.constraint(None, {"type": "null"}, None) == logits_pb.Constraint(
        json_schema='{"type": "null"}'
    )
    assert _requests.constraint(None, "{}", None) == logits_pb.Constraint(json_schema="{}")
    assert _requests.constraint(None, None, "start: x") == logits_pb.Constraint(lark="start: x")
    with pytest.raises(ValueError, match="one of"):
        _requests.constraint("a", "{}", None)


def test_every_way_to_ask_for_logits():
    assert logits("none").mode == logits_pb.LOGITS_MODE_UNSPECIFIED
    assert logits("full").mode == logits_pb.LOGITS_MODE_FULL
    top = logits("top", top_logits=5, logprobs=True, dtype="bfloat16")
    assert (top.mode, top.top_k) == (logits_pb.LOGITS_MODE_TOP_K, 5)
    assert top.scale == logits_pb.LOGITS_SCALE_LOGPROBS
    assert top.dtype == tensor_pb2.DATA_TYPE_BFLOAT16
    chosen = logits([7, 3])
    assert (chosen.mode, list(chosen.token_ids)) == (logits_pb.LOGITS_MODE_CHOSEN, [7, 3])


def test_unknown_words_are_refused_before_any_call():
    with pytest.raises(ValueError, match="neither none, top, full"):
        logits("all")
    with pytest.raises(ValueError, match="dtype 'int4'"):
        logits("full", dtype="int4")


def test_one_stop_string_is_not_taken_apart():
    made = _requests.stop_conditions("end", token_ids=[4], ignore_eos=True, max_new_tokens=3)
    assert (list(made.strings), list(made.token_ids)) == (["end"], [4])
    assert made.ignore_eos
    assert made.max_new_tokens == 3


def test_embeddings_of_generated_tokens_are_only_asked_for_when_wanted():
    assert _requests.generated_embeddings(None, dtype="float32") is None
    made = _requests.generated_embeddings([0, -1], dtype="float16")
    assert made is not None
    assert list(made.layers.layers) == [0, -1]
