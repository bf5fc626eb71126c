"""Constrained text: what comes out against `re` and against the schema, and who waits for whom."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_trace import News, Trace, alone, same
from headstream.model.outputs import LogitsSpec, Outputs, SamplingParams
from headstream.server import grammar_text
from headstream.server.engine.messages import Abort, Vocabulary
from headstream.server.wire.constraint import parse_constraint
from headstream.v1 import logits_service_pb2 as pb
from tiny_models import D_VOCAB

EOS = 1
PAIRS = [b'",', b'":', b'{"', b"], ", b"true", b"false", b"10", b"ab", b"name", b'"}']
KNOWN = [b"<pad>", b"<eos>", b"<bos>", *(bytes([byte]) for byte in range(32, 127)), *PAIRS]
TOKENS = KNOWN + [b""] * (D_VOCAB - len(KNOWN))
VOCABULARY = Vocabulary(tokens=TOKENS, special_ids=(0, 1, 2), eos_ids=(EOS,))
PROMPT = [(37 * i + 11) % D_VOCAB for i in range(20)]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["a", "b", 3]},
        "on": {"type": "boolean"},
        "points": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 99},
            "maxItems": 3,
        },
    },
    "required": ["name", "kind", "points"],
    "additionalProperties": False,
}


def grammar(**kind: str) -> str:
    text = parse_constraint("constraint", pb.Constraint(**kind)).grammar
    assert grammar_text.problem(text) == ""
    return text


JSON = grammar(json_schema=json.dumps(SCHEMA))
DATE = grammar(regex=r"[0-9]{4}-(0[1-9]|1[0-2])")


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    """An engine core that knows its tokens."""
    trace = Trace(tiny_gemma, cache_dir)
    trace.core.handle(VOCABULARY)
    return trace


def text_of(news: News) -> str:
    ids = [token_id for token_id in news.token_ids if token_id != EOS]
    return b"".join(TOKENS[token_id] for token_id in ids).decode()


def check_schema(text: str) -> None:
    """SCHEMA by hand."""
    value = json.loads(text)
    assert {"name", "kind", "points"} <= value.keys() <= SCHEMA["properties"].keys()
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 6
    assert value["kind"] in ("a", "b", 3)
    assert isinstance(value.get("on", True), bool)
    assert len(value["points"]) <= 3
    assert all(type(point) is int and 0 <= point <= 99 for point in value["points"])


def run(trace: Trace, count: int = 300, **requests: Any) -> list[News]:
    """One grammar, many seeds, all in one crowd."""
    ids = [
        trace.submit(PROMPT[: 3 + seed % 7], 200, sampling=_sampling(seed), **requests)
        for seed in range(count)
    ]
    trace.run()
    return [trace.news[sequence_id] for sequence_id in ids]


def _sampling(seed: int) -> SamplingParams:
    """All kinds of drawing."""
    return [
        SamplingParams(temperature=1.0, seed=seed),
        SamplingParams(temperature=3.0, top_p=0.95, seed=seed),
        SamplingParams(temperature=1.0, top_k=5, seed=seed),
        SamplingParams(temperature=0.7, typical_p=0.9, repetition_penalty=1.3, seed=seed),
        SamplingParams(),
    ][seed % 5]


@pytest.mark.parametrize("outputs", [Outputs(), Outputs(logits=LogitsSpec("top", 5))])
def test_every_seed_gives_what_the_schema_admits(trace: Trace, outputs: Outputs) -> None:
    ended = [news for news in run(trace, grammar=JSON, outputs=outputs) if news.finish == "stop"]
    assert len(ended) > 250  # whitespace between values may go on and on
    for news in ended:
        check_schema(text_of(news))
    assert len({text_of(news) for news in ended}) > 150


def test_every_seed_gives_what_the_expression_matches(trace: Trace) -> None:
    """It ends with the last character, without an end-of-text token."""
    for news in run(trace, grammar=DATE, stop_token_ids=(EOS,)):
        assert news.finish == "stop"
        assert re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text_of(news))
        assert EOS not in news.token_ids
    free = run(trace, count=20)
    assert not any(re.fullmatch(r"\d{4}-\d\d", text_of(news)) for news in free)


def test_a_grammar_with_recursion(trace: Trace) -> None:
    balanced = grammar(lark='start: "[" start* "]"')
    for news in run(trace, count=60, grammar=balanced, stop_token_ids=(EOS,)):
        if news.finish == "stop":
            assert json.loads(text_of(news).replace("][", "],[")) is not None
        else:
            assert news.finish == "length"


def test_an_open_end_is_ended_by_end_of_text_and_not_too_early(trace: Trace) -> None:
    letters = grammar(regex="(ab)*")
    for least in (0, 9):
        sequence_id = trace.submit(
            PROMPT,
            40,
            grammar=letters,
            stop_token_ids=(EOS,),
            min_new_tokens=least,
            sampling=SamplingParams(temperature=5.0, seed=3),
        )
        trace.run()
        news = trace.news[sequence_id]
        assert re.fullmatch("(ab)*", text_of(news).removesuffix("a"))
        assert len(news.token_ids) > least
        assert EOS not in news.token_ids[:least]


def test_reported_rows_are_the_raw_ones(trace: Trace) -> None:
    """The first row is that of the same prompt without a grammar, bit for bit."""
    outputs = Outputs(logits=LogitsSpec("full"), logprob=True)
    one = trace.submit(PROMPT, 1, outputs=outputs)
    other = trace.submit(PROMPT, 1, outputs=outputs, grammar=DATE)
    trace.run()
    assert trace.news[one].token_ids != trace.news[other].token_ids
    np.testing.assert_array_equal(trace.news[one].logits[0], trace.news[other].logits[0])


def test_alone_and_in_a_crowd_with_preemption(tiny_gemma: Path, cache_dir: Path) -> None:
    """KV memory for a fraction of the sequences: the place in the grammar outlives the blocks."""
    requests: list[dict[str, Any]] = [
        {
            "token_ids": PROMPT * 3,
            "max_new_tokens": 90,
            "grammar": (JSON, DATE, "")[i % 3],
            "sampling": SamplingParams(temperature=2.0, seed=i),
            "stop_token_ids": (EOS,),
        }
        for i in range(12)
    ]
    roomy = Trace(tiny_gemma, cache_dir)
    roomy.core.handle(VOCABULARY)
    lone = alone(roomy, requests)
    narrow = Trace(tiny_gemma, cache_dir, kv_cache_bytes=16 * roomy.block_bytes)
    narrow.core.handle(VOCABULARY)
    ids = [narrow.submit(**request) for request in requests]
    narrow.run()
    assert narrow.scheduler.preemptions > 0
    assert all(same(narrow.news[i], news) for i, news in zip(ids, lone, strict=True))
    assert {news.finish for news in lone} >= {"stop"}


def test_continuations_of_one_prompt_each_have_their_own_place(
    tiny_gemma: Path, cache_dir: Path
) -> None:
    """In little memory, so that some are preempted: each gets what it gets alone."""
    seeds = list(range(1, 12))
    params = [SamplingParams(temperature=2.0, seed=seed) for seed in (0, *seeds)]
    request: dict[str, Any] = {
        "token_ids": PROMPT,
        "max_new_tokens": 200,
        "grammar": JSON,
        "stop_token_ids": (EOS,),
    }
    roomy = Trace(tiny_gemma, cache_dir)
    roomy.core.handle(VOCABULARY)
    lone = alone(roomy, [{"sampling": sampling, **request} for sampling in params])
    narrow = Trace(tiny_gemma, cache_dir, kv_cache_bytes=16 * roomy.block_bytes)
    narrow.core.handle(VOCABULARY)
    ids = narrow.submit_all(seeds=seeds, sampling=params[0], **request)
    narrow.run()
    assert narrow.scheduler.preemptions > 0
    assert all(same(narrow.news[i], news) for i, news in zip(ids, lone, strict=True))
    ended = [text_of(news) for news in lone if news.finish == "stop"]
    assert len(set(ended)) > 5
    for text in ended:
        check_schema(text)


def test_what_cannot_be_followed_is_refused_and_hurts_nobody(trace: Trace) -> None:
    other = trace.submit(PROMPT, 5)
    bad = [
        trace.submit(PROMPT, 5, grammar=grammar(lark="start: <|nosuch|>")),
        trace.submit(PROMPT, 5, grammar=grammar(regex="(a{1000}){1000}")),
    ]
    trace.run()
    assert [trace.news[i].finish for i in bad] == ["refused", "dead_end"]
    assert len(trace.news[other].token_ids) == 5


def test_without_a_vocabulary_grammars_are_refused(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir)
    sequence_id = trace.submit(PROMPT, 5, grammar=DATE)
    trace.run()
    assert trace.news[sequence_id].finish == "refused"


def test_where_no_token_ends_a_text_grammars_are_refused(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir)
    trace.core.handle(Vocabulary(tokens=TOKENS, special_ids=(0, 1, 2), eos_ids=()))
    refused = trace.submit(PROMPT, 5, grammar=DATE)
    free = trace.submit(PROMPT, 5)
    trace.run()
    assert (trace.news[refused].finish, trace.news[free].finish) == ("refused", "length")


def test_an_aborted_sequence_is_not_waited_for(trace: Trace) -> None:
    sequence_id = trace.submit(PROMPT, 5, grammar=DATE)
    trace.core.handle(Abort(sequence_id))
    assert not trace.core.has_work
    trace.run()
    assert trace.news[sequence_id].token_ids == []


def test_forbidden_tokens_can_leave_nothing(trace: Trace) -> None:
    digits = tuple(TOKENS.index(str(digit).encode()) for digit in range(10))
    params = SamplingParams(forbidden_ids=(*digits, TOKENS.index(b"10")))
    sequence_id = trace.submit(PROMPT, 5, grammar=DATE, sampling=params)
    trace.run()
    news = trace.news[sequence_id]
    assert (news.finish, news.token_ids) == ("dead_end", [])
