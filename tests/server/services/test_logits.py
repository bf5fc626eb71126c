from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
import front_values
import tiny_tokenizers
from front_calls import until
from front_fakes import Job, Running
from front_values import MAX_MODEL_LEN
from headstream.server.engine.stream import TokenEvent
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2

TOKENIZER = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())
BOTH = pb.GeneratedEmbeddings(layers=types_pb2.LayerSelection(layers=[-1, 0]))


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


async def generate(running: Running, **fields: Any) -> list[pb.GenerateResponse]:
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    fields.setdefault("prompt", types_pb2.Input(text="hi"))
    request = pb.GenerateRequest(**fields)
    return [reply async for reply in stub.Generate(request, timeout=60)]


async def refusal(running: Running, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(running, **fields)
    return caught.value.code(), caught.value.details() or ""


def kinds(replies: list[pb.GenerateResponse]) -> list[str]:
    return [reply.WhichOneof("event") or "" for reply in replies]


def say(text: str) -> Any:
    """A script that generates the tokens of this text, then runs out."""
    ids = TOKENIZER.encode(text, skip_special=True).ids

    def script(job: Job) -> None:
        for index, token_id in enumerate(ids):
            job.stream.put(
                front_values.make_event(token=TokenEvent(index, token_id, None, None, ()))
            )
        job.stream.put(front_values.make_event(finish="length"))

    return script


async def test_start_steps_end(running: Running) -> None:
    replies = await generate(running, stop=pb.StopConditions(max_new_tokens=3))
    assert kinds(replies) == ["start", "step", "step", "step", "end"]
    start, end = replies[0].start, replies[-1].end
    assert list(start.prompt.ids) == list(TOKENIZER.encode("hi").ids)
    assert start.fingerprint.model == "tiny"
    assert start.request_id
    assert [reply.step.token_id for reply in replies[1:4]] == [40, 41, 42]
    assert replies[1].step.logprob == -0.5
    assert not replies[1].step.HasField("logits")
    assert end.finish_reason == pb.FINISH_REASON_LENGTH
    assert (end.usage.input_tokens, end.usage.output_tokens) == (2, 3)
    assert end.timings.first_output_ns > 0
    assert (end.timings.queue_ns, end.timings.compute_ns) == (5, 7)
    assert not running.handle.jobs[0].left


async def test_the_seed_in_use_is_told(running: Running) -> None:
    replies = await generate(running, sampling=pb.SamplingParams(seed=2**64 - 1))
    assert replies[0].start.seed == running.handle.jobs[0].sampling.seed == 2**64 - 1


async def test_vectors_come_one_step_after_their_token(running: Running) -> None:
    replies = await generate(running, stop=pb.StopConditions(max_new_tokens=2), embeddings=BOTH)
    assert kinds(replies) == ["start", "step", "step", "embedding", "embedding", "end"]
    vectors = [reply.embedding for reply in replies if reply.HasField("embedding")]
    assert [vector.index for vector in vectors] == [0, 1]
    assert list(vectors[0].vectors.shape) == [2, front_values.D_MODEL]
    assert set(np.frombuffer(vectors[1].vectors.data, "<f4")) == {1.0}
    assert replies[0].start.max_tensor_bytes == replies[-1].end.usage.tensor_bytes


@pytest.mark.parametrize(
    ("extra", "chunks"), [(0, 0), (1, 2)], ids=["one mebibyte", "one value more"]
)
async def test_large_rows_come_in_chunks(checkpoint: Path, extra: int, chunks: int) -> None:
    d_vocab = CHUNK_BYTES // 4 + extra
    async with front_fakes.running_front(checkpoint, d_vocab=d_vocab) as running:
        replies = await generate(
            running,
            logits=pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL),
            stop=pb.StopConditions(max_new_tokens=1),
        )
    step = replies[1].step
    assert step.chunks == chunks
    assert list(step.logits.values.shape) == [d_vocab]
    parts = [reply.chunk for reply in replies if reply.HasField("chunk")]
    assert [part.offset for part in parts] == [CHUNK_BYTES * i for i in range(chunks)]
    data = step.logits.values.data or b"".join(part.data for part in parts)
    assert (np.frombuffer(data, "<f4") == np.arange(d_vocab, dtype="<f4")).all()
    assert all(reply.ByteSize() < 2 * CHUNK_BYTES for reply in replies)


async def test_a_stop_string_cuts_the_text_and_leaves_the_engine(running: Running) -> None:
    running.handle.script = say("The chicken didn't cross the road")
    replies = await generate(running, stop=pb.StopConditions(strings=["didn"]))
    end = replies[-1].end
    text = "".join(reply.step.text for reply in replies) + end.text
    assert text == "The chicken "
    assert (end.finish_reason, end.stop_string) == (pb.FINISH_REASON_STOP, "didn")
    assert end.usage.output_tokens == len(replies) - 2
    assert running.handle.jobs[0].left
    aborts = running.front.metrics.registry.get_sample_value(
        "headstream_aborts_total", {"model": "tiny", "reason": "stop_string"}
    )
    assert aborts == 1


async def test_after_a_stop_string_the_last_vectors_still_come(running: Running) -> None:
    wanted = TOKENIZER.surfaces[41].decode()
    stop = pb.StopConditions(max_new_tokens=6, strings=[wanted])
    replies = await generate(running, stop=stop, embeddings=BOTH)
    assert kinds(replies) == ["start", "step", "step", "embedding", "embedding", "end"]
    assert replies[-1].end.stop_string == wanted


async def test_held_text_comes_with_the_end(running: Running) -> None:
    running.handle.script = say("The chicken")
    replies = await generate(running, stop=pb.StopConditions(strings=["chicken!"]))
    end = replies[-1].end
    assert "".join(reply.step.text for reply in replies) == "The "
    assert (end.text, end.stop_string) == ("chicken", "")
    assert end.finish_reason == pb.FINISH_REASON_LENGTH


async def test_stop_tokens_are_merged_with_the_models_own(running: Running) -> None:
    await generate(running, stop=pb.StopConditions(token_ids=[7, 1]))
    await generate(running, stop=pb.StopConditions(token_ids=[7], ignore_eos=True))
    assert [job.stop_token_ids for job in running.handle.jobs] == [(7, 1), (7,)]


async def test_a_chat_without_a_template_is_refused(running: Running) -> None:
    chat = types_pb2.Chat(messages=[types_pb2.ChatMessage(role="user", content="hi")])
    code, details = await refusal(running, prompt=types_pb2.Input(chat=chat))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details == "prompt.chat: the model has no chat template; send text or token_ids"
    assert running.handle.jobs == []


async def test_a_chat_is_read_as_its_template_writes_it(checkpoint: Path) -> None:
    """With one beginning mark: that of the template."""
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (checkpoint / "chat_template.jinja").write_text(source)
    (checkpoint / "tokenizer_config.json").write_text('{"bos_token": "<bos>"}')
    chat = types_pb2.Chat(messages=[types_pb2.ChatMessage(role="user", content="hi")])
    async with front_fakes.running_front(checkpoint) as running:
        await generate(running, prompt=types_pb2.Input(chat=chat))
        chat.add_generation_prompt = False
        await generate(running, prompt=types_pb2.Input(chat=chat))
        texts = ["<bos>user: hi\nassistant:", "<bos>user: hi\n"]
        expected = [TOKENIZER.encode(text, skip_special=True).ids for text in texts]
        assert [job.token_ids for job in running.handle.jobs] == expected
        assert expected[0].count(expected[0][0]) == 1


async def test_the_engine_gets_the_grammar_and_the_vocabulary(running: Running) -> None:
    constrained = pb.SamplingParams(constraint=pb.Constraint(regex="[0-9]+"))
    stop = pb.StopConditions(min_new_tokens=2, max_new_tokens=3)
    await generate(running, sampling=constrained, stop=stop)
    [job] = running.handle.jobs
    assert "[0-9]+" in job.grammar
    assert job.min_new_tokens == 2
    vocabulary = running.handle.vocabulary
    ids = TOKENIZER.encode("The chicken", skip_special=True).ids
    assert b"".join(vocabulary.tokens[token_id] for token_id in ids) == b"The chicken"
    assert set(vocabulary.special_ids) == TOKENIZER.surfaces.special_ids
    assert vocabulary.eos_ids == (1,)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "[0-9", "unclosed character class"),
        ("regex", "(?=a)b", "look-around"),
        ("json_schema", '{"type": "foo"}', "Invalid type: foo"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", "3", "must be an object or boolean"),
        ("lark", "start: nothing", "nothing"),
    ],
)
async def test_a_bad_constraint_is_refused_before_any_work(
    running: Running, kind: str, text: str, message: str
) -> None:
    constrained = pb.SamplingParams(constraint=pb.Constraint(**{kind: text}))
    code, details = await refusal(running, sampling=constrained)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"sampling.constraint.{kind}: ")
    assert message in details
    assert running.handle.jobs == []


async def test_a_grammar_the_engine_refuses_is_the_callers_fault(running: Running) -> None:
    running.handle.script = lambda job: job.stream.put(front_values.make_event(finish="refused"))
    constrained = pb.SamplingParams(constraint=pb.Constraint(lark="start: <|nosuch|>"))
    code, details = await refusal(running, sampling=constrained)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "special tokens that the model does not have" in details


async def test_a_dead_end_is_told(running: Running) -> None:
    running.handle.script = lambda job: job.stream.put(front_values.make_event(finish="dead_end"))
    replies = await generate(running)
    assert replies[-1].end.finish_reason == pb.FINISH_REASON_DEAD_END


async def test_a_stop_string_waits_for_the_least_tokens(running: Running) -> None:
    running.handle.script = say("ab ab ab")
    stop = pb.StopConditions(strings=["ab"], min_new_tokens=4, max_new_tokens=9)
    replies = await generate(running, stop=stop)
    steps = [reply.step for reply in replies if reply.WhichOneof("event") == "step"]
    assert len(steps) >= 4
    text = "".join(step.text for step in steps) + replies[-1].end.text
    assert text.startswith("ab ")
    assert replies[-1].end.stop_string == "ab"


async def test_the_context_is_a_limit_only_for_who_asked_for_more(running: Running) -> None:
    long = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[40] * (MAX_MODEL_LEN - 5)))
    await generate(running, prompt=long)
    await generate(running, prompt=long, stop=pb.StopConditions(max_new_tokens=5))
    assert [job.max_new_tokens for job in running.handle.jobs] == [5, 5]
    code, message = await refusal(running, prompt=long, stop=pb.StopConditions(max_new_tokens=6))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "59 tokens and 6 new ones make 65; the model takes 64" in message


async def test_a_reply_over_budget_is_refused_before_the_engine_sees_it(running: Running) -> None:
    full = pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL)
    code, message = await refusal(running, logits=full, max_reply_bytes=1000)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the limit is 1000" in message
    assert running.handle.jobs == []


async def test_a_full_queue_refuses(checkpoint: Path) -> None:
    flags = ("--max-queued-requests", "1", "--retry-after", "0.5")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        running.handle.script = lambda job: None
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
        waiting = stub.Generate(pb.GenerateRequest(prompt=types_pb2.Input(text="hi")))
        await waiting.read()
        await until(lambda: bool(running.handle.jobs))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "500"
        running.handle.jobs[0].stream.put(front_values.make_event())  # it has started
        loaded = running.front.models.find("").loaded
        assert loaded is not None
        await until(lambda: loaded.queue.requests == 0)
        running.handle.script = say("ok")
        await generate(running)
        waiting.cancel()
