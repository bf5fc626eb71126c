"""The sync client against a real server: its other calls, and what holds for all."""

import time

import grpc
import pytest

from client_messages import END, START, tensor, vectors
from headstream.client import (
    DeadlineExceeded,
    EmbeddingChoices,
    EmbeddingDefaults,
    InvalidArgument,
    Unavailable,
)
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import tensor_pb2, tokenizer_service_pb2, types_pb2


def test_streams_are_not_repeated_and_unary_calls_are(script, client):
    def fail_twice(reply):
        calls = []

        def handler(request, context):
            calls.append(request)
            if len(calls) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            return reply

        return handler, calls

    script.embed, embeds = fail_twice(vectors([1, 2]))
    script.generate, generates = fail_twice(iter([START, END]))
    assert client.embed("a").tolist() == [1, 2]
    assert len(embeds) == 3
    with pytest.raises(Unavailable, match="draining"):
        list(client.generate("a"))
    assert len(generates) == 1


def test_lookup_tokenize_and_detokenize(script, client):
    script.lookup = lambda request, context: embeddings_pb.LookupEmbeddingsResponse(
        tokens=types_pb2.TokenIds(ids=[4]), rows=tensor([[1, 2]])
    )
    found = client.lookup("a")
    assert (found.token_ids, found.vectors.tolist()) == ([4], [[1, 2]])
    assert script.requests[-1].input.skip_special_tokens
    script.tokenize = lambda request, context: tokenizer_service_pb2.TokenizeResponse(
        tokens=types_pb2.TokenTable(
            ids=[4],
            surfaces=[b"a"],
            byte_starts=[0],
            byte_ends=[1],
            char_starts=[0],
            char_ends=[1],
            special=[False],
        )
    )
    assert client.tokenize("a").tokens == ["a"]
    script.detokenize = lambda request, context: tokenizer_service_pb2.DetokenizeResponse(text="a")
    assert client.detokenize([4]) == "a"
    assert list(script.requests[-1].ids) == [4]


def test_models_tell_sizes_limits_and_capabilities(script, client):
    model = model_pb.Model(
        name="tiny",
        state=model_pb.MODEL_STATE_SERVING,
        sizes=model_pb.ModelSizes(layers=2, vocabulary=50),
        limits=model_pb.Limits(max_inputs=64, max_sites=256, max_look_bytes=1 << 40),
        capabilities=[
            model_pb.Capability(method="headstream.v1.LogitsService/Generate", served=True),
            model_pb.Capability(method="headstream.v1.LogitsService/Decode", served=False),
        ],
    )
    script.list_models = lambda request, context: model_pb.ListModelsResponse(models=[model])
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=model)
    (listed,) = client.models()
    assert listed == client.model("tiny")
    assert (listed.name, listed.state) == ("tiny", "serving")
    assert (listed.sizes.layers, listed.limits.max_inputs) == (2, 64)
    assert (listed.limits.max_sites, listed.limits.max_look_bytes) == (256, 1 << 40)
    assert listed.can("Generate")
    assert not listed.can("Decode")
    assert not listed.can("Score")
    assert script.requests[-1].model == "tiny"


def test_models_tell_how_they_make_vectors(script, client):
    embedding = model_pb.EmbeddingDefaults(
        pooling=embeddings_pb.POOLING_LAST, pool_special_tokens=True, prompts={"query": "q: "}
    )
    choices = model_pb.EmbeddingChoices(
        poolings=[embeddings_pb.POOLING_MEAN, embeddings_pb.POOLING_CLS],
        dtypes=[tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_BINARY],
        max_dimensions=8,
    )
    model = model_pb.Model(
        name="tiny", embedding=embedding, bidirectional=True, embedding_choices=choices
    )
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=model)
    info = client.model()
    assert info.bidirectional
    assert (info.embedding.pooling, info.embedding.pool_special_tokens) == ("last", True)
    assert (info.embedding.normalize, info.embedding.prompts) == (False, {"query": "q: "})
    assert info.embedding_choices == EmbeddingChoices(("mean", "cls"), ("float32", "binary"), 8)
    model.ClearField("embedding")  # it is being loaded
    assert client.model().embedding == EmbeddingDefaults()


def test_the_timeout_of_a_call_wins_over_that_of_the_client(script, client):
    def slow(request, context):
        time.sleep(0.5)
        return vectors([1])

    script.embed = slow
    with pytest.raises(DeadlineExceeded):
        client.embed("a", timeout=0.1)
    assert client.embed("a").tolist() == [1]


def test_wrong_arguments_keep_their_field(script, client):
    def refuse(request, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "inputs: empty")

    script.embed = refuse
    with pytest.raises(InvalidArgument, match="INVALID_ARGUMENT: inputs: empty"):
        client.embed([])
