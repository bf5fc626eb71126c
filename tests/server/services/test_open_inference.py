"""The Open Inference Protocol over a scripted engine: what is asked of it, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
import inference_requests as make
import tiny_tokenizers
from front_calls import count, exchange, explain, read_all, until
from front_fakes import Running
from front_values import D_MODEL, MAX_MODEL_LEN
from headstream.open_inference import inference_pb2 as pb
from headstream.open_inference import inference_pb2_grpc
from headstream.server.engine.state import EngineState
from headstream.server.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())
VOCABULARY = tiny_tokenizers.byte_level_tokenizer().get_vocab_size()
FIRST = 40  # the token that the scripted engine generates first
INFER = "inference.GRPCInferenceService/ModelInfer"


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint, "--open-inference") as front:
        yield front


def stub(running: Running) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(running.channel)


async def infer(running: Running, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    reply: pb.ModelInferResponse = await stub(running).ModelInfer(request, timeout=60)
    return reply


async def refused(running: Running, request: pb.ModelInferRequest) -> tuple[str, str, str]:
    """Code, message and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(running, request)
    code, message, reason = explain(caught.value)
    return code.name, message, reason


async def streamed(
    running: Running, requests: Iterable[pb.ModelInferRequest]
) -> list[pb.ModelStreamInferResponse]:
    return await read_all(exchange(stub(running).ModelStreamInfer(timeout=60), requests))


@pytest.mark.parametrize("raw", [True, False])
async def test_texts_get_the_vectors_of_embed(running: Running, raw: bool) -> None:
    request = make.of_texts(["fish", "The chicken"], ["embedding"], raw=raw, normalize=False)
    reply = await infer(running, request)
    lengths = [len(TOKENIZER.encode(text)) for text in ("fish", "The chicken")]
    expected = np.array(
        [[np.mean(range(1, length))] * D_MODEL for length in lengths]
    )  # without the special
    np.testing.assert_array_equal(make.arrays(reply)["embedding"], expected.astype("<f4"))
    assert (reply.model_name, reply.model_version, reply.id) == ("tiny", "1", "mine")
    assert reply.parameters["weights_sha256"].string_param == "0" * 64
    assert reply.parameters["batch_invariant"].bool_param
    assert [job.max_new_tokens for job in running.handle.jobs] == [0, 0], "nothing more computed"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
async def test_token_ids_are_taken_as_they_are(running: Running, raw: bool, datatype: str) -> None:
    ids = [[5, 6, 7], [8, 9, 10]]
    request = make.of_ids(ids, ["embedding"], raw=raw, datatype=datatype, pooling="last")
    reply = await infer(running, request)
    assert [list(job.token_ids) for job in running.handle.jobs] == ids
    assert {job.outputs.pool.kind for job in running.handle.jobs if job.outputs.pool} == {"last"}
    assert make.arrays(reply)["embedding"].shape == (2, D_MODEL)


async def test_one_row_of_ids_needs_no_second_axis(running: Running) -> None:
    await infer(running, make.of_ids([5, 6, 7], ["token_ids"]))
    assert [job.token_ids for job in running.handle.jobs] == [(5, 6, 7)]


async def test_logits_come_with_the_next_token(running: Running) -> None:
    reply = await infer(running, make.of_texts(["a", "b"], ["token_ids", "logits"]))
    outputs = make.arrays(reply)
    assert list(outputs) == ["token_ids", "logits"], "in the order asked"
    np.testing.assert_array_equal(outputs["token_ids"], [[FIRST], [FIRST]])
    np.testing.assert_array_equal(outputs["logits"], [np.arange(VOCABULARY)] * 2)
    assert [job.max_new_tokens for job in running.handle.jobs] == [1, 1]
    assert count(running, "reply_bytes_total", model="tiny", kind="logits") == 2 * 4 * VOCABULARY


async def test_the_rows_of_all_positions(running: Running) -> None:
    reply = await infer(running, make.of_ids([[5, 6, 7], [8, 9, 10]], ["prompt_logits"]))
    rows = make.arrays(reply)["prompt_logits"]
    assert rows.shape == (2, 3, VOCABULARY)
    np.testing.assert_array_equal(rows[..., 0], [[1, 2, 3]] * 2)  # the row before each token
    assert [job.token_ids[:3] for job in running.handle.jobs] == [(5, 6, 7), (8, 9, 10)]
    assert [job.max_new_tokens for job in running.handle.jobs] == [0, 0], "no next token"
    sent = count(running, "reply_bytes_total", model="tiny", kind="logits")
    assert sent == 2 * 3 * 4 * VOCABULARY


async def test_rows_of_all_positions_have_one_shape(running: Running) -> None:
    request = make.of_texts(["a", "fish and chips"], ["prompt_logits"])
    _, message, reason = await refused(running, request)
    lengths = [len(TOKENIZER.encode(text)) for text in ("a", "fish and chips")]
    assert message.startswith(f"text[1]: has {lengths[1]} tokens, and text[0] {lengths[0]}; must")
    assert reason == "INVALID_FIELD"
    assert running.handle.jobs == []


async def test_only_what_is_asked_is_computed(running: Running) -> None:
    await infer(running, make.of_texts(["a"], ["token_ids"]))
    [job] = running.handle.jobs
    assert job.outputs.logits.mode == "none"
    assert job.outputs.pool is None
    await infer(running, make.of_texts(["a"]))
    assert len(running.handle.jobs) == 3, "unasked: a vector, and a next token"


async def test_options_reach_the_engine(running: Running) -> None:
    request = make.of_texts(["a text"], ["embedding"], layer=1, dimensions=3, normalize=True)
    reply = await infer(running, request)
    vector = make.arrays(reply)["embedding"]
    assert vector.shape == (1, 3)
    assert np.linalg.norm(vector) == pytest.approx(1)
    pool = running.handle.jobs[0].outputs.pool
    assert pool is not None
    assert pool.layer == 1


def named(request_id: str) -> pb.ModelInferRequest:
    request = make.of_texts(["a"])
    request.id = request_id
    return request


async def test_what_the_client_of_kserve_says_besides_is_taken(running: Running) -> None:
    """Its sizes and kinds of binary data, which mean nothing here."""
    request = make.of_texts(["a"], ["embedding"], raw=True)
    request.inputs[0].parameters["binary_data_size"].int64_param = 5
    request.outputs[0].parameters["binary_data"].bool_param = True
    assert make.arrays(await infer(running, request))["embedding"].shape == (1, D_MODEL)
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    _, message, _ = await refused(running, request)
    assert message.startswith("inputs[0].parameters: none is known")


REFUSALS: list[tuple[Callable[[], pb.ModelInferRequest], str]] = [
    (lambda: make.of_texts(["a", ""]), "text[1]: is empty"),
    (lambda: make.of_texts(["x" * 100], ["embedding"]), "text[0]: has 101 tokens; the model takes"),
    (lambda: make.of_texts(["x" * 100], ["logits"]), "text[0]: 101 tokens and 1 new ones"),
    (lambda: make.of_texts(["a"] * 65), "text.shape[0]: 65 is not in [1, 64]"),
    (lambda: make.of_ids([[5, VOCABULARY]]), f"input_ids[0][1]: {VOCABULARY} is not in [0, "),
    (lambda: make.of_ids([[5, 6], [7, -1]]), "input_ids[1][1]: -1 is not in [0, "),
    (lambda: make.of_ids([5] * (MAX_MODEL_LEN + 1)), "input_ids.shape[0]: 65 is not in [1, 64]"),
    (lambda: make.of_texts(["a"], ["logit"]), "outputs[0].name: 'logit' is none of embedding"),
    (lambda: make.of_texts(["a"], ["logits"] * 2), "outputs: logits appears twice"),
    (lambda: make.of_texts(["a"], ["logits_ids"]), "outputs[0].name: logits_ids go with"),
    (lambda: make.of_ids([5], ["prompt_logits_ids"]), "outputs[0].name: prompt_logits_ids go"),
    (lambda: make.of_ids([5] * MAX_MODEL_LEN, ["prompt_logits"]), "input_ids[0]: 64 tokens and 1"),
    (
        lambda: make.of_texts(["a"], top_k=2000),
        f"parameters.top_k: 2000 is not in [1, {VOCABULARY}]",
    ),
    (lambda: make.of_texts(["a"], ["logits"], truncate=True), "parameters.truncate: goes with"),
    (lambda: named("x" * 300), "id: has 300 characters; the limit is 256"),
    (lambda: make.of_texts(["a"], dimensions=9), "parameters.dimensions: 9 is not in [1, 8]"),
    (lambda: make.of_texts(["a"], dimensions=-1), "parameters.dimensions: -1 is out of range"),
    (lambda: make.of_texts(["a"], layer=9), "parameters.layer: 9 is not in [-4, 2]"),
    (lambda: make.of_texts(["a"], pooling="median"), "parameters.pooling: must be one of mean, "),
    (lambda: make.of_texts(["a"], normalize=1), "parameters.normalize: must be a bool_param"),
    (lambda: make.of_texts(["a"], priority=1), "parameters.priority: is none of dimensions, "),
    (lambda: make.of_texts(["a"], max_new_tokens=2), "parameters.max_new_tokens: goes with Model"),
    (pb.ModelInferRequest, "inputs: has 0 tensors; one of text and input_ids is taken"),
]


@pytest.mark.parametrize(("request_of", "message"), REFUSALS, ids=[each[1] for each in REFUSALS])
async def test_what_breaks_a_rule_is_refused_by_its_name(
    running: Running, request_of: Callable[[], pb.ModelInferRequest], message: str
) -> None:
    code, told, reason = await refused(running, request_of())
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert told.startswith(message)
    assert running.handle.jobs == [], "before any work"


def damaged(damage: Callable[[pb.ModelInferRequest], Any]) -> pb.ModelInferRequest:
    request = make.of_texts(["fish", "hi"])
    damage(request)
    return request


def set_raw(*parts: bytes) -> Callable[[pb.ModelInferRequest], None]:
    def set_parts(request: pb.ModelInferRequest) -> None:
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(parts)

    return set_parts


DAMAGES: dict[str, Callable[[pb.ModelInferRequest], Any]] = {
    "raw_input_contents[0]: ends in the length": set_raw(b"\1\0"),
    "raw_input_contents[0]: ends in the element": set_raw(b"\5\0\0\0abc"),
    "text: has 1 entries; allowed are 2 to 2": set_raw(b"\1\0\0\0a"),
    "text[1]: is no UTF-8 at byte 0": set_raw(b"\1\0\0\0a\1\0\0\0\xff"),
    "raw_input_contents: must have one entry": set_raw(b"", b""),
    "text.datatype: 'INT8' is not BYTES": lambda r: setattr(r.inputs[0], "datatype", "INT8"),
    "text.shape: [2, 2] is not [n]": lambda r: r.inputs[0].shape.append(2),
    "text.shape: [] is not [n]": lambda r: r.inputs[0].ClearField("shape"),
    "inputs[0].name: 'words' is not text": lambda r: setattr(r.inputs[0], "name", "words"),
    "inputs[0].parameters: none is known": lambda r: r.inputs[0].parameters["binary"],
    "raw_input_contents: must have": lambda r: r.inputs[0].contents.bytes_contents.append(b"a"),
}


@pytest.mark.parametrize("message", DAMAGES)
async def test_broken_tensors_are_refused(running: Running, message: str) -> None:
    code, told, _ = await refused(running, damaged(DAMAGES[message]))
    assert code == "INVALID_ARGUMENT"
    assert told.startswith(message)


async def test_too_large_an_answer_is_refused_before_any_work(checkpoint: Path) -> None:
    flags = ("--open-inference", "--max-message-bytes", str(2 << 20), "--max-inputs", "2000")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        request = make.of_texts(["a"] * 2000, ["logits"])
        assert 2000 * 4 * VOCABULARY > 2 << 20
        assert (await refused(running, request))[2] == "REPLY_TOO_LARGE"
        assert running.handle.jobs == []


async def test_the_size_counts_every_position(checkpoint: Path) -> None:
    flags = ("--open-inference", "--max-message-bytes", str(2 << 20))
    row = 4 * VOCABULARY
    most = (2 << 20) // (60 * row)  # texts of 60 tokens
    async with front_fakes.running_front(checkpoint, *flags) as running:
        request = make.of_ids([[5] * 60] * (most + 1), ["prompt_logits"])
        assert (await refused(running, request))[2] == "REPLY_TOO_LARGE"
        assert running.handle.jobs == []
        reply = await infer(running, make.of_ids([[5] * 60] * most, ["prompt_logits"]))
        assert make.arrays(reply)["prompt_logits"].shape == (most, 60, VOCABULARY)


async def test_a_model_without_logits_gives_vectors_alone(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--open-inference", unembeds=False) as running:
        reply = await infer(running, make.of_texts(["a"]))
        assert list(make.arrays(reply)) == ["embedding"]
        code, _, reason = await refused(running, make.of_texts(["a"], ["logits"]))
        assert (code, reason) == ("UNIMPLEMENTED", "NOT_SERVED")
        metadata = await stub(running).ModelMetadata(pb.ModelMetadataRequest(), timeout=60)
        assert [output.name for output in metadata.outputs] == ["embedding"]


async def test_models_and_versions_that_are_not_there(running: Running) -> None:
    request = make.of_texts(["a"])
    request.model_name = "other"
    assert (await refused(running, request))[2] == "MODEL_NOT_FOUND"
    request = make.of_texts(["a"])
    request.model_version = "2"
    assert (await refused(running, request))[:2] == ("NOT_FOUND", "model_version: '2' is not 1")


async def test_a_stream_answers_in_order_and_outlives_an_error(running: Running) -> None:
    requests = [make.of_texts(["fish"]), make.of_texts([""]), make.of_texts(["a", "b"])]
    for number, request in enumerate(requests):
        request.id = f"number {number}"
    first, second, third = await streamed(running, requests)
    assert second.error_message == "text[0]: is empty"
    answers = [each.infer_response for each in (first, second, third)]
    assert [answer.id for answer in answers] == ["number 0", "number 1", "number 2"]
    assert all(answer.parameters["triton_final_response"].bool_param for answer in answers)
    assert (first.error_message, third.error_message) == ("", "")
    assert make.arrays(answers[2])["embedding"].shape == (2, D_MODEL)


async def test_a_continuation_comes_token_by_token(running: Running) -> None:
    request = make.of_texts(
        ["hi"], ["text", "token_ids", "logits"], max_new_tokens=3, ignore_eos=True
    )
    *steps, end = [each.infer_response for each in await streamed(running, [request])]
    ids = [int(make.arrays(step)["token_ids"].item()) for step in steps]
    assert ids == [FIRST, FIRST + 1, FIRST + 2]
    assert all(np.array_equal(make.arrays(s)["logits"][0], np.arange(VOCABULARY)) for s in steps)
    text = "".join(make.arrays(reply)["text"][0] for reply in (*steps, end))
    assert text == TOKENIZER.decode(ids, skip_special=False)
    assert end.parameters["finish_reason"].string_param == "length"
    finals = [each.parameters["triton_final_response"].bool_param for each in (*steps, end)]
    assert finals == [False, False, False, True]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_new_tokens": 0}, "parameters.max_new_tokens: 0 is not in [1, 63]"),
        ({"max_new_tokens": 2, "temperature": -1.0}, "parameters.temperature: -1 is not in"),
        ({"max_new_tokens": 2, "pooling": "mean"}, "parameters.pooling: is none of "),
        ({"max_new_tokens": 63}, f"text[0]: {len(TOKENIZER.encode('hi'))} tokens and 63 new ones"),
        ({"max_new_tokens": 2.5}, "parameters.max_new_tokens: must be an int64_param"),
    ],
)
async def test_a_continuation_keeps_the_rules_of_generate(
    running: Running, parameters: dict[str, Any], message: str
) -> None:
    [reply] = await streamed(running, [make.of_texts(["hi"], **parameters)])
    assert reply.error_message.startswith(message)


async def test_readiness_is_health(running: Running) -> None:
    ready = pb.ModelReadyRequest(name="tiny")
    assert (await stub(running).ServerLive(pb.ServerLiveRequest(), timeout=60)).live
    assert (await stub(running).ServerReady(pb.ServerReadyRequest(), timeout=60)).ready
    assert (await stub(running).ModelReady(ready, timeout=60)).ready
    running.handle.set_state(EngineState.FAILED)
    assert not (await stub(running).ServerReady(pb.ServerReadyRequest(), timeout=60)).ready
    assert not (await stub(running).ModelReady(ready, timeout=60)).ready
    assert (await refused(running, make.of_texts(["a"])))[2] == "ENGINE_UNAVAILABLE"
    running.handle.set_state(EngineState.SERVING)
    running.front.health.draining = True
    assert not (await stub(running).ModelReady(ready, timeout=60)).ready
    running.front.policy.draining = True
    assert (await refused(running, make.of_texts(["a"])))[2] == "DRAINING"


async def test_a_full_queue_and_the_metrics_hold_here_too(checkpoint: Path) -> None:
    flags = ("--open-inference", "--max-queued-requests", "2")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        running.handle.script = lambda job: None  # it never answers
        waiting = [
            stub(running).ModelInfer(make.of_texts(["a"], ["embedding"]), timeout=60)
            for _ in range(2)
        ]
        await until(lambda: len(running.handle.jobs) == 2)
        code, _, reason = await refused(running, make.of_texts(["a"], ["token_ids"]))
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert count(running, "requests_total", method=INFER, code="RESOURCE_EXHAUSTED") == 1
        for call in waiting:
            call.cancel()


async def test_it_is_off_unless_asked_for(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(running, make.of_texts(["a"]))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
