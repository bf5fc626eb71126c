"""Whatever is sent to the real server, it answers with a code of the closed table, and lives on."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2

Code = grpc.StatusCode
ALLOWED = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.UNIMPLEMENTED,
    Code.RESOURCE_EXHAUSTED,
}
UNARY = [
    "EmbeddingsService/Embed",
    "EmbeddingsService/LookupEmbeddings",
    "TokenizerService/Tokenize",
    "TokenizerService/Detokenize",
    "ModelService/GetModel",
    "ModelService/ListModels",
]
STREAMS = ["LogitsService/Generate", "LogitsService/Score", "EmbeddingsService/EmbedTokens"]


@pytest.fixture
def channel(server: str) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(server) as opened:
        yield opened


def send(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    path = f"/headstream.v1.{method}"
    try:
        if method in STREAMS:
            stream: Any = channel.unary_stream(path)
            list(stream(data, timeout=60))
        else:
            unary: Any = channel.unary_unary(path)
            unary(data, timeout=60)
    except grpc.RpcError as error:
        return explain(error)
    return Code.OK


def explain(error: Any) -> grpc.StatusCode:
    """The code, once it is sure that the status has its details."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "headstream"
    assert trailers["x-request-id"]
    code: grpc.StatusCode = error.code()
    return code


@pytest.mark.parametrize("method", UNARY + STREAMS)
def test_an_empty_message(channel: grpc.Channel, method: str) -> None:
    assert send(channel, method, b"") in ALLOWED


@pytest.mark.parametrize("method", UNARY + STREAMS)
def test_random_bytes(server: str, method: str) -> None:
    with grpc.insecure_channel(server) as channel:

        @given(st.binary(max_size=60))
        @settings(max_examples=40, deadline=None)
        def check(data: bytes) -> None:
            assert send(channel, method, data) in ALLOWED

        check()


def test_random_requests(server: str) -> None:
    number = st.floats(width=32)
    sampling = st.builds(
        pb.SamplingParams,
        temperature=number,
        top_k=st.integers(0, 2**32 - 1),
        top_p=number,
        min_p=number,
        repetition_penalty=number,
        presence_penalty=number,
        logit_bias=st.dictionaries(st.integers(0, 2**32 - 1), number, max_size=2),
        seed=st.integers(0, 2**64 - 1),
    )
    stop = st.builds(
        pb.StopConditions,
        max_new_tokens=st.integers(0, 4),
        token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=2),
        strings=st.lists(st.text(max_size=3), max_size=2),
    )
    options = st.builds(
        pb.LogitsOptions,
        mode=st.integers(0, 4),
        top_k=st.integers(0, 2000),
        token_ids=st.lists(st.integers(0, 500), max_size=3),
        scale=st.integers(0, 3),
        dtype=st.integers(0, 7),
    )
    prompt = st.builds(types_pb2.Input, text=st.text(max_size=20))
    request = st.builds(
        pb.GenerateRequest, prompt=prompt, sampling=sampling, stop=stop, logits=options
    )
    with grpc.insecure_channel(server) as channel:

        @given(request)
        @settings(max_examples=60, deadline=None)
        def check(message: pb.GenerateRequest) -> None:
            data = message.SerializeToString()
            assert send(channel, "LogitsService/Generate", data) in ALLOWED

        check()


def test_sampled_tokens_repeat_with_their_seed(channel: grpc.Channel) -> None:
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[5, 6, 7]))
    sampling = pb.SamplingParams(temperature=1.0)

    def run() -> tuple[int, list[int]]:
        request = pb.GenerateRequest(prompt=prompt, sampling=sampling)
        start, *steps = stub.Generate(request, timeout=60)
        return start.start.seed, [r.step.token_id for r in steps if r.HasField("step")]

    seed, tokens = run()
    sampling.seed = seed
    assert run() == (seed, tokens)
