"""The sync client against a real server."""

import time
from itertools import chain

import grpc
import pytest

from client_messages import (
    END,
    END_TOKENS,
    ROWS,
    START,
    continuations,
    ends,
    steps,
    tensor,
    token_events,
    vectors,
)
from headstream.client import (
    Aborted,
    Client,
    DeadlineExceeded,
    EmbeddingChoices,
    EmbeddingDefaults,
    EmbedError,
    InvalidArgument,
    StreamBroken,
    Unavailable,
)
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import tensor_pb2, tokenizer_service_pb2, types_pb2


@pytest.fixture
def client(script):
    with Client(script.address, timeout=60, stream_timeout=60) as client:
        yield client


def test_generate_streams_steps_and_then_knows_the_whole(script, client):
    script.generate = lambda request, context: iter([START, *steps(3), END])
    generation = client.generate("a", logits="top", top_logits=4, seed=3, stop=["!", "?"])
    assert [step.text for step in generation] == [" 0", " 1", " 2"]
    assert generation.text == " 0 1 2"
    assert (generation.finish_reason, generation.stop_string) == ("stop", "!")
    assert (generation.request_id, generation.seed) == ("r1", 3)
    (request,) = script.requests
    assert (request.logits.top_k, request.sampling.seed) == (4, 3)
    assert list(request.stop.strings) == ["!", "?"]
    assert list(generation) == []
    assert script.ended.wait(20)
    assert not script.was_cancelled


def test_leaving_the_loop_ends_the_call_on_the_server(script, client):
    def endless(request, context):
        yield START
        index = 0
        while context.is_active():
            yield from steps(1, index)
            index += 1
            time.sleep(0.01)

    script.generate = endless
    for step in client.generate("a"):
        if step.index == 2:
            break
    assert script.ended.wait(20)
    assert script.was_cancelled


def test_close_and_with_end_the_call_while_a_name_holds_it(script, client):
    def endless(request, context):
        yield from (START, *steps(1))
        while context.is_active():
            time.sleep(0.01)

    script.generate = endless
    with client.generate("a") as generation:
        assert next(generation).index == 0
        assert not script.ended.is_set()
    assert script.ended.wait(20)
    assert script.was_cancelled
    assert list(generation) == []


def test_a_stream_without_its_end_is_broken_where_it_stopped(script, client):
    script.generate = lambda request, context: iter([START, *steps(2)])
    read = []
    with pytest.raises(StreamBroken, match="index 2") as caught:
        read.extend(client.generate("a"))
    assert caught.value.index == 2


def test_continuations_come_side_by_side_and_are_told_apart(script, client):
    script.generate = lambda request, context: chain(continuations(2, 1, 3), ends(1, 0, 2))
    generation = client.generate("a", n=3)
    assert [(step.continuation, step.index) for step in generation] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (2, 1),
        (2, 2),
    ]
    assert script.requests[0].sampling.n == 3
    assert [each.text for each in generation.continuations] == [" 0 1", " 0", " 0 1 2"]
    assert [each.seed for each in generation.continuations] == [3, 4, 5]
    assert [each.stop_string for each in generation.continuations] == ["!"] * 3
    assert client.generate("a", n=3).read_texts() == [" 0 1", " 0", " 0 1 2"]


def test_a_stream_without_all_ends_is_broken_where_the_least_advanced_stopped(script, client):
    script.generate = lambda request, context: chain(continuations(4, 1, 3), ends(1))
    with pytest.raises(StreamBroken) as caught:
        client.generate("a", n=3).read_texts()
    assert caught.value.index == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, StreamBroken),
        (grpc.StatusCode.INTERNAL, StreamBroken),
        (grpc.StatusCode.UNKNOWN, StreamBroken),
        (grpc.StatusCode.CANCELLED, StreamBroken),  # by whoever is in between
        (grpc.StatusCode.ABORTED, Aborted),
    ],
)
def test_a_death_in_the_middle_is_a_broken_stream_whatever_its_status(script, client, code, kind):
    def dies(request, context):
        yield from (START, *steps(2))
        context.abort(code, "gone")

    script.generate = dies
    with pytest.raises(StreamBroken) as caught:
        list(client.generate("a"))
    assert type(caught.value) is kind
    assert (caught.value.index, caught.value.code) == (2, code.name)


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


def test_embed_gives_one_vector_for_a_string_and_rows_for_a_list(script, client):
    script.embed = lambda request, context: vectors(*[[i, i] for i, _ in enumerate(request.inputs)])
    assert client.embed("ab").shape == (2,)
    assert client.embed(["a", [1, 2], "c"]).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert client.embed(["a"]).shape == (1, 2)


def test_embed_names_every_text_that_failed(script, client):
    bad = embeddings_pb.EmbedResult(
        error=embeddings_pb.ItemError(code=3, message="9 tokens; at most 8", reason="TEXT_TOO_LONG")
    )
    reply = vectors([1, 2])
    reply.results.append(bad)
    script.embed = lambda request, context: reply
    with pytest.raises(
        EmbedError, match=r"text 1: 9 tokens; at most 8 \[TEXT_TOO_LONG\]"
    ) as caught:
        client.embed(["a", "b"])
    assert [(item.index, item.reason) for item in caught.value.items] == [(1, "TEXT_TOO_LONG")]


def test_embed_spans_gives_a_row_per_span(script, client):
    script.embed = lambda request, context: vectors([[1, 2], [3, 4], [5, 6]])
    assert client.embed_spans("abc", [(0, 1), (1, 2), (0, 3)]).shape == (3, 2)


def test_embed_tokens_puts_rows_in_their_places(script, client):
    script.embed_tokens = lambda request, context: iter([*token_events(ROWS), END_TOKENS])
    result = client.embed_tokens("é", layers=[0, -1])
    assert result.vectors[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert result.vectors[1].tolist() == [[7, 8], [9, 10], [11, 12]]
    assert result.tokens == ["<bos>", "\ufffd", "\ufffd"]
    assert result.surfaces[1:] == [b"\xc3", b"\xa9"]
    assert result.offsets == [(0, 0), (0, 1), (0, 1)]
    assert result.byte_offsets == [(0, 0), (0, 1), (1, 2)]
    assert result.special == [True, False, False]
    assert (result.layers, len(result), result.request_id) == ([0, -1], 3, "r2")


def test_embed_tokens_never_returns_rows_that_did_not_come(script, client):
    script.embed_tokens = lambda request, context: iter([*token_events(ROWS[:1]), END_TOKENS])
    with pytest.raises(StreamBroken, match="index 2"):
        client.embed_tokens("é", layers=[0, -1])
    script.embed_tokens = lambda request, context: token_events(ROWS)
    with pytest.raises(StreamBroken, match="index 6"):
        client.embed_tokens("é", layers=[0, -1])


def test_embed_tokens_that_fails_midway_is_a_broken_stream(script, client):
    def dies(request, context):
        yield from token_events(ROWS[:1])
        context.abort(grpc.StatusCode.INTERNAL, "gone")

    script.embed_tokens = dies
    with pytest.raises(StreamBroken) as caught:
        client.embed_tokens("é", layers=[0, -1])
    assert (caught.value.index, caught.value.code) == (2, "INTERNAL")


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
