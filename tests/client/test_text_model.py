"""Lists of texts as other libraries give them: by one call or a stream, in their order."""

import asyncio
import threading

import grpc
import numpy as np
import pytest

from client_messages import stream_answer
from headstream.client import AsyncClient, Client, EmbedError, NotFound, StreamBroken
from headstream.client._retrieval_model import RetrievalModel
from headstream.client._stream_items import BATCH_BYTES, BATCH_ITEMS
from headstream.client._text_model import TextModel, own_prompt
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb

MODEL = model_pb.Model(
    name="tiny",
    state=model_pb.MODEL_STATE_SERVING,
    limits=model_pb.Limits(max_inputs=BATCH_ITEMS),
    embedding=model_pb.EmbeddingDefaults(
        normalize=True,
        prompts={"query": "Find: ", "passage": "P: "},
        default_prompt_name="passage",
    ),
    embedding_choices=model_pb.EmbeddingChoices(max_dimensions=2),
)


def answer_all(request, context):
    """The answers of a stream, to one call."""
    items = [pb.EmbedStreamItem(id=i, item=item) for i, item in enumerate(request.inputs)]
    return pb.EmbedResponse(results=[stream_answer(item).result for item in items])


def answer_backwards(requests, context):
    """As a server may: the last text of a message first."""
    for request in requests:
        if request.items:
            yield pb.EmbedStreamResponse(answers=map(stream_answer, reversed(request.items)))


@pytest.fixture
def calls(script):
    """The names of the calls that embed, as they come."""
    seen = []

    def noting(name, handler):
        def handle(request, context):
            seen.append(name)
            return handler(request, context)

        return handle

    script.get_model = lambda request, context: model_pb.GetModelResponse(model=MODEL)
    script.embed = noting("embed", answer_all)
    script.embed_stream = noting("stream", answer_backwards)
    return seen


@pytest.fixture
def client(script):
    with Client(script.address, timeout=5, stream_timeout=5) as client:
        yield client


@pytest.fixture(params=["sync", "thread", "async"])
async def embed(request, script, calls, client):
    """`TextModel.embed`, or `aembed` without and with a client of its own."""
    if request.param == "async":
        async with AsyncClient(script.address, timeout=5, stream_timeout=5) as own:
            yield TextModel(client, "", async_client=own).aembed
        return
    model = TextModel(client, "")

    async def call(texts, **options):
        return model.embed(texts, **options)

    yield call if request.param == "sync" else model.aembed


async def test_few_go_by_one_call_and_many_by_a_stream(embed, calls):
    for count in (1, BATCH_ITEMS, BATCH_ITEMS + 1, 700):
        vectors = await embed(["x" * (1 + i % 50) for i in range(count)])
        assert vectors[:, 0].tolist() == [1 + i % 50 for i in range(count)]
        assert vectors.dtype == np.float32
    long = "x" * (BATCH_BYTES // 2)
    assert (await embed([long, "x", long, "xx"]))[:, 0].tolist() == [len(long), 1, len(long), 2]
    assert calls == ["embed", "embed", "stream", "stream", "stream"]


async def test_no_texts_are_no_call(embed, calls):
    assert (await embed([])).shape == (0, 2)
    assert (await embed([], dtype="binary")).shape == (0, 1)
    assert calls == []


async def test_a_bad_text_is_told_by_its_place(embed, calls):
    with pytest.raises(EmbedError, match=r"text 1: .*is empty.*text 3: ") as few:
        await embed(["x", "", "x", ""])
    assert [item.index for item in few.value.items] == [1, 3]
    with pytest.raises(EmbedError, match=r"text 200: .*is empty") as many:
        await embed(["x"] * 200 + [""] + ["x"] * 200)
    assert [item.index for item in many.value.items] == [200]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a text", "texts is a string"),
        ([[1, 2]], r"texts\[0\] is of type list"),
        (["a", None], r"texts\[1\] is of type NoneType"),
        ([{"role": "user", "content": "a"}], r"texts\[0\] is of type dict"),
    ],
)
async def test_other_things_than_strings_are_refused(embed, calls, texts, message):
    with pytest.raises(TypeError, match=message):
        await embed(texts)
    assert calls == []


async def test_a_stream_that_breaks_gives_no_vectors(embed, script, calls):
    def broken(requests, context):
        yield next(answer_backwards(requests, context))
        context.abort(grpc.StatusCode.ABORTED, "stopped")

    script.embed_stream = broken
    with pytest.raises(StreamBroken, match="stream broken"):
        await embed(["x"] * 200)


def test_answers_are_counted(client, calls):
    for count in (3, 300):
        done: list[int] = []
        TextModel(client, "").embed(["x"] * count, done.append)
        assert sum(done) == count


def test_what_is_wrong_is_told_before_any_text(script, client, calls):
    with pytest.raises(ValueError, match="dimensions is 0"):
        TextModel(client, "", dimensions=0)
    with pytest.raises(ValueError, match="pooling 'sum' is none of"):
        TextModel(client, "", pooling="sum")  # type: ignore[arg-type]
    script.get_model = lambda _, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
    with pytest.raises(NotFound):
        TextModel(client, "another")


def test_a_model_that_loads_is_asked_again(script, client, calls):
    states = iter([model_pb.MODEL_STATE_LOADING, model_pb.MODEL_STATE_SERVING])

    def get_model(request, context):
        model = model_pb.Model(name="tiny", state=next(states))
        if model.state == model_pb.MODEL_STATE_SERVING:
            model.MergeFrom(MODEL)
        return model_pb.GetModelResponse(model=model)

    script.get_model = get_model
    model = TextModel(client, "")
    assert own_prompt(model.info, "query") == {"prompt_name": "query"}
    assert (model.info.state, model.dimensions) == ("serving", 2)


@pytest.mark.parametrize("has_own_client", [False, True])
async def test_the_loop_runs_on_while_a_model_that_loads_is_asked_again(
    script, client, calls, has_own_client
):
    """The server answers when the loop says so, which it could not say if it were held up."""
    asked, may_answer, was_let = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def get_model(request, context):
        loop.call_soon_threadsafe(asked.set)
        was_let.append(may_answer.wait(3))
        return model_pb.GetModelResponse(model=MODEL)

    script.get_model = lambda request, context: model_pb.GetModelResponse(
        model=model_pb.Model(name="tiny", state=model_pb.MODEL_STATE_LOADING)
    )
    async with AsyncClient(script.address, timeout=5) as own:
        model = RetrievalModel(
            client,
            "",
            async_client=own if has_own_client else None,
            query_prompt=None,
            document_prompt=None,
        )
        script.get_model = get_model
        query = asyncio.create_task(model.aembed_query("x"))
        await asked.wait()
        may_answer.set()
        assert len(await query) == 2
    assert was_let == [True]


async def test_prompts_of_queries_and_documents(script, client, calls):
    """The model's own, or none at all, or those that are given."""

    def sent():
        [options] = [r.options for r in script.requests[-1:]]
        which = options.WhichOneof("prompt")
        return which, which and getattr(options, which)

    async with AsyncClient(script.address) as own:
        model = RetrievalModel(
            client, "", async_client=own, query_prompt=None, document_prompt=None, truncate=True
        )
        assert model.embed_query("xyz") == [3, 1]
        assert sent() == ("prompt_name", "query")
        assert script.requests[-1].options.truncate
        assert await model.aembed_query("xyz") == [3, 1]
        assert sent() == ("prompt_name", "query")
        assert model.embed_documents(["x", "xy"]) == [[1, 1], [2, 1]]
        assert sent() == ("prompt_text", ""), "not the default, which is for neither"
        assert await model.aembed_documents([]) == []
        given = RetrievalModel(
            client, "", async_client=own, query_prompt="Q: ", document_prompt="D: "
        )
        given.embed_query("x")
        assert sent() == ("prompt_text", "Q: ")
        await given.aembed_documents(["x"])
        assert sent() == ("prompt_text", "D: ")
