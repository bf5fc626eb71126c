"""`embed` and `embed_tokens` of the sync client."""

import grpc
import pytest

from client_messages import END_TOKENS, ROWS, token_events, vectors
from headstream.client import EmbedError, StreamBroken
from headstream.v1 import embeddings_service_pb2 as embeddings_pb


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
