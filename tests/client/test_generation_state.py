import numpy as np

from headstream.client import TopLogits
from headstream.client._generation_state import GenerationState
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import tensor_pb2, types_pb2


def tensor(values):
    array = np.asarray(values, dtype="<f4")
    return tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes()
    )


def start():
    return pb.GenerateResponse(
        start=pb.GenerateStart(request_id="r1", prompt=types_pb2.TokenIds(ids=[2, 5]), seed=7)
    )


def step(index, text="", **fields):
    return pb.GenerateResponse(
        step=pb.GenerateStep(index=index, token_id=100 + index, text=text, **fields)
    )


def embedding(index, values):
    return pb.GenerateResponse(embedding=pb.GenerateEmbedding(index=index, vectors=tensor(values)))


def end(text=""):
    return pb.GenerateResponse(
        end=pb.GenerateEnd(
            finish_reason=pb.FINISH_REASON_LENGTH,
            text=text,
            usage=types_pb2.Usage(input_tokens=2, output_tokens=2),
        )
    )


def taken(state):
    return list(iter(state.take, None))


def test_steps_come_at_once_without_embeddings():
    state = GenerationState(with_embeddings=False)
    state.feed(start())
    assert (state.request_id, state.prompt_ids, state.seed) == ("r1", [2, 5], 7)
    state.feed(step(0, "a", logprob=-0.5))
    (only,) = taken(state)
    assert (only.index, only.token_id, only.text, only.logprob) == (0, 100, "a", -0.5)
    assert only.logits is None
    assert only.embedding is None


def test_a_missing_logprob_is_none_and_not_zero():
    state = GenerationState(with_embeddings=False)
    state.feed(step(0))
    assert taken(state)[0].logprob is None


def test_top_logits_keep_their_ids_and_rows_are_plain_arrays():
    state = GenerationState(with_embeddings=False)
    state.feed(step(0, logits=pb.Logits(values=tensor([3, 1]), token_ids=[9, 4])))
    state.feed(step(1, logits=pb.Logits(values=tensor([0, 1, 2]))))
    top, full = (item.logits for item in taken(state))
    assert isinstance(top, TopLogits)
    assert top.token_ids.tolist() == [9, 4]
    assert top.values.tolist() == [3, 1]
    assert isinstance(full, np.ndarray)
    assert full.tolist() == [0, 1, 2]


def test_a_row_in_chunks_is_put_together_whatever_their_order():
    row = tensor(np.arange(10))
    data = row.data
    row.data = b""
    state = GenerationState(with_embeddings=False)
    state.feed(step(0, logits=pb.Logits(values=row), chunks=2))
    state.feed(pb.GenerateResponse(chunk=pb.GenerateChunk(index=0, offset=24, data=data[24:])))
    assert state.take() is None
    state.feed(pb.GenerateResponse(chunk=pb.GenerateChunk(index=0, offset=0, data=data[:24])))
    (only,) = taken(state)
    assert isinstance(only.logits, np.ndarray)
    assert only.logits.tolist() == list(range(10))


def test_a_step_waits_for_its_embedding_which_comes_one_step_later():
    state = GenerationState(with_embeddings=True)
    state.feed(step(0))
    state.feed(step(1))
    assert state.take() is None
    state.feed(embedding(0, [[1, 2]]))
    (first,) = taken(state)
    assert first.index == 0
    assert first.embedding is not None
    assert first.embedding.tolist() == [[1, 2]]
    state.feed(embedding(1, [[3, 4]]))
    assert [item.index for item in taken(state)] == [1]


def test_the_end_gives_out_steps_whose_embedding_never_came():
    state = GenerationState(with_embeddings=True)
    state.feed(step(0, "x"))
    state.feed(end(" tail"))
    (only,) = taken(state)
    assert only.embedding is None
    assert (state.text, state.tail, state.finish_reason) == ("x tail", " tail", "length")
    assert state.usage is not None
    assert state.usage.output_tokens == 2


def test_how_far_it_got_is_known_only_once_it_began():
    state = GenerationState(with_embeddings=False)
    reached = [state.reached]
    for event in (start(), step(0)):
        state.feed(event)
        reached.append(state.reached)
    assert reached == [None, 0, 1]
    assert not state.ended


def test_continuations_run_side_by_side_and_each_has_its_own_text_and_end():
    def of(continuation, event):
        event.continuation = continuation
        return event

    state = GenerationState(with_embeddings=True)
    state.feed(pb.GenerateResponse(start=pb.GenerateStart(seed=7, seeds=[7, 99])))
    state.feed(of(0, step(0, "a")))
    state.feed(of(1, step(0, "x")))
    state.feed(of(1, step(1, "y")))
    assert (state.take(), state.reached) == (None, 1)
    state.feed(of(1, embedding(0, [[1, 2]])))
    (first,) = taken(state)
    assert (first.continuation, first.index, first.text) == (1, 0, "x")
    state.feed(of(0, end("!")))
    assert [(each.continuation, each.index) for each in taken(state)] == [(0, 0)]
    assert (state.ended, state.usage, state.finish_reason, state.reached) == (
        False,
        None,
        "length",
        2,
    )
    state.feed(of(1, end()))
    assert [(each.continuation, each.index) for each in taken(state)] == [(1, 1)]
    assert [(each.text, each.seed) for each in state.continuations] == [("a!", 7), ("xy", 99)]
    assert (state.text, state.tail, state.ended) == ("a!", "!", True)
    assert state.usage is not None
    assert (state.usage.input_tokens, state.usage.output_tokens) == (4, 4)


def test_events_of_a_newer_contract_are_passed_over():
    state = GenerationState(with_embeddings=False)
    state.feed(pb.GenerateResponse())
    assert state.take() is None
