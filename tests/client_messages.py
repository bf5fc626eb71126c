"""Messages of the contract that the tests of the client feed to it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tensor_pb2, types_pb2

Rows: TypeAlias = Sequence[tuple[int, int, Any]]  # layer index, first row, [rows, d]


def tensor(values: Any) -> tensor_pb2.Tensor:
    array = np.asarray(values, dtype="<f4")
    return tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes()
    )


def steps(count: int, first: int = 0) -> Iterator[logits_pb.GenerateResponse]:
    for index in range(first, first + count):
        yield logits_pb.GenerateResponse(
            step=logits_pb.GenerateStep(index=index, token_id=index, text=f" {index}")
        )


START = logits_pb.GenerateResponse(start=logits_pb.GenerateStart(request_id="r1", seed=3))
END = logits_pb.GenerateResponse(
    end=logits_pb.GenerateEnd(finish_reason=logits_pb.FINISH_REASON_STOP, stop_string="!")
)


def continuations(*counts: int) -> Iterator[logits_pb.GenerateResponse]:
    """A start, and side by side so many steps of each continuation. Their ends are left out."""
    start = logits_pb.GenerateStart(request_id="r1", seed=3, seeds=range(3, 3 + len(counts)))
    yield logits_pb.GenerateResponse(start=start)
    for index in range(max(counts)):
        for continuation, count in enumerate(counts):
            if index < count:
                yield from _of(continuation, steps(1, index))


def ends(*which: int) -> Iterator[logits_pb.GenerateResponse]:
    for continuation in which:
        yield from _of(continuation, [END])


def _of(
    continuation: int, events: Iterable[logits_pb.GenerateResponse]
) -> Iterator[logits_pb.GenerateResponse]:
    for event in events:
        own = logits_pb.GenerateResponse(continuation=continuation)
        own.MergeFrom(event)
        yield own


def vectors(*rows: Any) -> embeddings_pb.EmbedResponse:
    return embeddings_pb.EmbedResponse(
        results=[
            embeddings_pb.EmbedResult(embedding=embeddings_pb.Embedding(vectors=tensor(row)))
            for row in rows
        ]
    )


def token_events(rows: Rows) -> Iterator[embeddings_pb.EmbedTokensResponse]:
    table = types_pb2.TokenTable(
        ids=[1, 2, 3],
        surfaces=[b"<bos>", b"\xc3", b"\xa9"],
        byte_starts=[0, 0, 1],
        byte_ends=[0, 1, 2],
        char_starts=[0, 0, 0],
        char_ends=[0, 1, 1],
        special=[True, False, False],
    )
    yield embeddings_pb.EmbedTokensResponse(
        start=embeddings_pb.EmbedTokensStart(
            request_id="r2", tokens=table, layers=[0, -1], dimensions=2
        )
    )
    for layer, first, values in rows:
        yield embeddings_pb.EmbedTokensResponse(
            chunk=embeddings_pb.EmbedTokensChunk(
                layer_index=layer, start=first, rows=tensor(values)
            )
        )


END_TOKENS = embeddings_pb.EmbedTokensResponse(end=embeddings_pb.EmbedTokensEnd())
ROWS: Rows = [(1, 0, [[7, 8], [9, 10]]), (0, 0, [[1, 2], [3, 4], [5, 6]]), (1, 2, [[11, 12]])]


def score_events(
    *texts: Sequence[int], logits: logits_pb.Logits | None = None
) -> Iterator[logits_pb.ScoreResponse]:
    """A start, two ranges of positions for each text, side by side, and the summaries.

    Position i has log-probability -i, rank i and entropy i / 2.
    """
    items = [logits_pb.ScoreInput(num_tokens=len(ids), first_token_id=ids[0]) for ids in texts]
    yield logits_pb.ScoreResponse(start=logits_pb.ScoreStart(request_id="r3", inputs=items))
    for half in (0, 1):
        for index, ids in enumerate(texts):
            middle = (len(ids) + 1) // 2
            part = range(1, middle) if half == 0 else range(middle, len(ids))
            yield logits_pb.ScoreResponse(
                positions=logits_pb.ScorePositions(
                    input=index,
                    start=part.start,
                    token_ids=[ids[i] for i in part],
                    logprobs=[-i for i in part],
                    ranks=part,
                    entropies=[i / 2 for i in part],
                    logits=logits if part else None,
                )
            )
    for index in range(len(texts)):
        summary = logits_pb.ScoreSummary(input=index, logprob=-3.5, perplexity=7.25)
        yield logits_pb.ScoreResponse(summary=summary)


SCORE_END = logits_pb.ScoreResponse(end=logits_pb.ScoreEnd(usage=types_pb2.Usage(input_tokens=9)))


def stream_answer(item: embeddings_pb.EmbedStreamItem) -> embeddings_pb.EmbedStreamAnswer:
    """A vector of the length of the text; an error for a text that is empty."""
    text = item.item.input.text
    if not text:
        error = embeddings_pb.ItemError(
            code=3, message="item.input.text: is empty", reason="INVALID_FIELD"
        )
        return embeddings_pb.EmbedStreamAnswer(
            id=item.id, result=embeddings_pb.EmbedResult(error=error)
        )
    embedding = embeddings_pb.Embedding(vectors=tensor([len(text), 1]))
    return embeddings_pb.EmbedStreamAnswer(
        id=item.id, result=embeddings_pb.EmbedResult(embedding=embedding)
    )
