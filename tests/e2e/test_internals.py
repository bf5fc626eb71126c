"""Looking inside a real server with tiny models, and changing them."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_tokenizers
from headstream.client import (
    Add,
    AsyncClient,
    Client,
    InvalidArgument,
    Patch,
    ResourceExhausted,
    Scale,
    Site,
    TopLogits,
    Unimplemented,
)
from server_process import running_server
from tiny_models import save_tiny

TEXT = "The chicken didn't cross the road because it was too tired"
OTHER = "The road was not crossed by this chicken because it was too wide"
LONG = " ".join([TEXT] * 3)  # longer than a sliding window
LAYERS = 3
HEADS = 4


@pytest.fixture(scope="module")
def address(tiny_model: Path) -> Generator[str]:
    with running_server(tiny_model, "--dtype", "float32") as server:
        yield server.address


@pytest.fixture(scope="module")
def client(address: str) -> Generator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client]:
    directory = save_tiny("bert", tmp_path_factory.mktemp("bert"), vocab_size=420)
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    with running_server(directory) as server, Client(server.address) as client:
        yield client


def first_row(client: Client, text: Any, **options: Any) -> np.ndarray:
    """The full row behind a text."""
    [step] = client.generate(text, max_new_tokens=1, logits="full", ignore_eos=True, **options)
    return np.asarray(step.logits)


def test_every_place_is_there_and_as_large_as_was_told(client: Client) -> None:
    info = client.model()
    assert info.can("Trace")
    sites = {site.name: site for site in info.sites}
    assert "pos_embed" not in sites, "positions are rotations here"
    trace = client.trace(TEXT, list(sites))
    n = len(trace)
    assert set(trace.rows) == {
        (name, layer)
        for name, site in sites.items()
        for layer in (
            range(1, LAYERS + 1) if site.per_layer else [0 if name == "embed" else LAYERS]
        )
    }
    for (name, _), values in trace.rows.items():
        site = sites[name]
        assert values.shape == (n, *([site.heads] if site.heads else []), site.width or n), name
    assert trace.usage.tensor_bytes == sum(values.nbytes for values in trace.rows.values())


def test_the_stream_is_that_of_the_embeddings_to_the_bit(client: Client) -> None:
    tokens = client.embed_tokens(TEXT, layers=[0, 1, 2, 3, -1])
    trace = client.trace(TEXT, ["embed", "resid_pre", "resid_post", "ln_final"])
    assert np.array_equal(trace.values("embed"), tokens.vectors[0])
    assert np.array_equal(trace.values("ln_final"), tokens.vectors[-1])
    for layer in range(1, LAYERS + 1):
        assert np.array_equal(trace.values("resid_pre", layer), tokens.vectors[layer - 1])
        assert np.array_equal(trace[f"blocks.{layer - 1}.hook_resid_post"], tokens.vectors[layer])
    assert trace.token_ids == tokens.token_ids
    assert trace.fingerprint == tokens.fingerprint


def test_chosen_parts_are_parts_of_the_whole(client: Client) -> None:
    whole = client.trace(TEXT, ["z", "pattern"])
    part = client.trace(TEXT, [Site("z", [2], [3, 1]), Site("pattern", [3], [0])], positions=(2, 7))
    assert set(part.rows) == {("z", 2), ("pattern", 3)}
    assert np.array_equal(part.values("z", 2), whole.values("z", 2)[2:7, [1, 3]])
    pattern = whole.values("pattern", 3)[2:7, :1]
    np.testing.assert_allclose(part.values("pattern", 3), pattern, atol=1e-6)
    halved = client.trace(TEXT, Site("z", [2]), dtype="float16").values("z", 2)
    assert np.array_equal(halved, whole.values("z", 2).astype(np.float16))


def test_attention_is_a_distribution_over_what_came_before(client: Client) -> None:
    attention = client.attention(LONG)
    n = len(attention)
    assert attention.weights.shape == (LAYERS, HEADS, n, n)
    np.testing.assert_allclose(attention.weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(attention.weights, 1).any(), "the future weighs exactly zero"
    window = np.tril(np.ones((n, n)), -24).astype(bool)
    assert window.any()
    assert not attention.weights[0][:, window].any(), "and so does what a sliding window leaves"
    assert attention.weights[1][:, window].all(), "layer 2 sees all"
    trace = client.trace(LONG, "pattern")
    for layer in range(1, LAYERS + 1):
        for head in range(HEADS):
            assert np.array_equal(
                attention.pattern(layer, head), trace.values("pattern", layer)[:, head]
            )


def test_parts_and_means_and_the_largest_weights(client: Client) -> None:
    whole = client.attention(TEXT)
    n = len(whole)
    part = client.attention(TEXT, layers=[3], heads=[2, 0], queries=[n - 1, 4])
    expected = whole.weights[2:, [0, 2]][:, :, [4, n - 1]]
    np.testing.assert_allclose(part.weights, expected, atol=1e-6)
    mean = client.attention(TEXT, average_heads=True, heads=[1, 2])
    np.testing.assert_allclose(mean.weights[:, 0], whole.weights[:, 1:3].mean(1), atol=1e-6)
    top = client.attention(TEXT, top_k=3)
    assert top.keys is not None
    assert np.array_equal(top.weights, np.sort(whole.weights, -1)[..., ::-1][..., :3])
    assert np.array_equal(np.take_along_axis(whole.weights, top.keys, -1), top.weights)
    rolled = client.attention(TEXT, rollout=True)
    np.testing.assert_allclose(rolled.weights.sum(-1), 1, atol=1e-5)
    mixed = 0.5 * (whole.weights.mean(1) + np.eye(n))
    expected = mixed[2] @ mixed[1] @ mixed[0]
    np.testing.assert_allclose(rolled.pattern(0), expected, atol=1e-5)


def test_the_last_layer_of_the_lens_is_what_the_model_says(client: Client) -> None:
    lens = client.logit_lens(TEXT, logits="full")
    n = len(lens)
    assert isinstance(lens.logits, np.ndarray)
    assert lens.logits.shape == (LAYERS + 1, n, 420)
    assert np.array_equal(lens.logits[-1, -1], first_row(client, TEXT))
    scores = client.score(TEXT, logits="full")
    assert isinstance(scores.logits, np.ndarray)
    assert np.array_equal(lens.logits[-1, :-1], scores.logits)
    assert not np.array_equal(lens.logits[-2, -1], lens.logits[-1, -1])
    top = client.logit_lens(TEXT, layers=[1, -1], positions=(3, 5), top_logits=4)
    assert isinstance(top.logits, TopLogits)
    assert (top.layers, top.positions) == ([1, 3], [3, 4])
    ids = top.logits.token_ids
    assert np.array_equal(np.take_along_axis(lens.logits[[1, 3], 3:5], ids, -1), top.logits.values)
    assert np.array_equal(ids[1, 1], np.argsort(-lens.logits[-1, 4], kind="stable")[:4])


def test_generated_tokens_are_traced_as_they_come(client: Client) -> None:
    run = client.generate(TEXT, max_new_tokens=5, ignore_eos=True)
    ids = [step.token_id for step in run]
    assert 1 not in ids, "the text has not ended"
    stream = client.trace_stream(TEXT, ["resid_post", "pattern"], max_new_tokens=5)
    tokens = list(stream)
    trace = stream.result()
    n = len(trace)
    assert [token.token_id for token in tokens] == trace.generated_ids == ids
    assert [token.position for token in tokens] == list(range(n, n + 5))
    again = client.trace([*trace.token_ids, *ids], ["resid_post", "pattern"])
    for token in tokens:
        for layer in range(1, LAYERS + 1):
            row = token.values["resid_post", layer]
            np.testing.assert_allclose(
                row, again.values("resid_post", layer)[token.position], atol=1e-4
            )
            pattern = token.values["pattern", layer]
            assert pattern.shape == (HEADS, token.position + 1)
            np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
    assert trace.values("resid_post", 2).shape == (n + 5, 64)
    assert trace.usage.output_tokens == 5


def test_a_part_taken_out_adds_nothing(client: Client) -> None:
    out = [Scale("attn_out", 2, 0.0), Scale("mlp_out", [2], 0.0)]
    trace = client.trace(TEXT, ["resid_pre", "resid_post"], interventions=out)
    plain = client.trace(TEXT, ["resid_pre", "resid_post"])
    assert np.array_equal(trace.values("resid_post", 2), trace.values("resid_pre", 2))
    assert np.array_equal(trace.values("resid_post", 1), plain.values("resid_post", 1))
    assert not np.array_equal(trace.values("resid_post", 3), plain.values("resid_post", 3))


def test_a_vector_is_added_where_it_is_said(client: Client) -> None:
    vector = np.random.default_rng(3).normal(size=64).astype("<f4")
    add = Add("resid_post", 2, vector, positions=(3, 6), factor=-2.0)
    changed = client.trace(TEXT, "resid_post", interventions=[add])
    plain = client.trace(TEXT, "resid_post")
    before, after = plain.values("resid_post", 2), changed.values("resid_post", 2)
    np.testing.assert_allclose(after[3:6], before[3:6] - 2 * vector, rtol=1e-6, atol=1e-6)
    rest = np.r_[0:3, 6 : len(plain)]
    assert np.array_equal(after[rest], before[rest])
    third = changed.values("resid_post", 3) != plain.values("resid_post", 3)
    assert third[3:].any(1).all(), "later tokens see it"
    assert not third[:3].any(), "earlier ones do not"


def test_a_patch_of_everything_is_the_other_text(client: Client) -> None:
    """With the whole last stream of another text, the model says what it says to that one."""
    other = client.tokenize(OTHER).token_ids
    text = client.tokenize(TEXT).token_ids
    n = min(len(text), len(other))
    patch = Patch("resid_post", LAYERS, other[:n])
    changed = client.logit_lens(text[:n], layers=[-1], logits="full", interventions=[patch])
    expected = client.logit_lens(other[:n], layers=[-1], logits="full")
    assert isinstance(changed.logits, np.ndarray)
    assert isinstance(expected.logits, np.ndarray)
    assert np.array_equal(changed.logits, expected.logits)
    assert changed.usage.input_tokens == 2 * n, "both were read"
    some = Patch("z", [1, 3], other[:n], heads=[2], positions=(4, 9))
    seen = client.trace(text[:n], "z", interventions=[some])
    theirs, plain = client.trace(other[:n], "z"), client.trace(text[:n], "z")
    for layer in (1, 3):
        assert np.array_equal(seen.values("z", layer)[4:9, 2], theirs.values("z", layer)[4:9, 2])
    assert np.array_equal(seen.values("z", 1)[:, :2], plain.values("z", 1)[:, :2])


HEAD_OUT = [Scale("z", [1, 2], 0.0, heads=[1])]


def test_all_ways_to_ask_see_the_same_changed_model(client: Client) -> None:
    row = first_row(client, TEXT, interventions=HEAD_OUT)
    assert not np.array_equal(row, first_row(client, TEXT))
    lens = client.logit_lens(TEXT, layers=[-1], logits="full", interventions=HEAD_OUT)
    assert isinstance(lens.logits, np.ndarray)
    assert np.array_equal(lens.logits[0, -1], row)
    with client.decode(TEXT, interventions=HEAD_OUT) as session:
        assert np.array_equal(session.logits, row)
        twin = session.fork()
        appended = twin.append([40])
    [step] = client.generate(
        [*lens.token_ids, 40], max_new_tokens=1, logits="full", interventions=HEAD_OUT
    )
    np.testing.assert_allclose(appended[0], np.asarray(step.logits), atol=1e-4)
    scores = client.score(TEXT, logits="full", interventions=HEAD_OUT)
    assert isinstance(scores.logits, np.ndarray)
    assert np.array_equal(scores.logits, lens.logits[0, :-1])
    tokens = client.embed_tokens(TEXT, interventions=HEAD_OUT)
    final = client.trace(TEXT, "ln_final", interventions=HEAD_OUT).values("ln_final")
    assert np.array_equal(tokens.vectors[0], final)
    vector = client.embed(TEXT, pooling="last", normalize=False, interventions=HEAD_OUT)
    assert np.array_equal(vector, final[-1])
    [(_, streamed)] = client.embed_stream(
        [TEXT], pooling="last", normalize=False, interventions=HEAD_OUT
    )
    assert isinstance(streamed, np.ndarray)
    assert np.array_equal(streamed, vector)
    attention = client.attention(TEXT, interventions=HEAD_OUT)
    plain = client.attention(TEXT)
    assert np.array_equal(attention.pattern(1, 0), plain.pattern(1, 0)), "what is before it"
    assert not np.array_equal(attention.pattern(2, 0), plain.pattern(2, 0))


def test_neighbours_do_not_notice(client: Client) -> None:
    """Plain requests beside changed and traced ones, and behind them out of the prefix cache."""
    prompts = [f"{number} {TEXT}" * 24 for number in range(4)]  # longer than a cached chunk
    alone = [first_row(client, prompt) for prompt in prompts]
    changed = [first_row(client, prompt, interventions=HEAD_OUT) for prompt in prompts]

    def run(job: tuple[str, str]) -> Any:
        kind, prompt = job
        if kind == "trace":
            return client.trace(prompt, ["resid_post", "pattern"], interventions=HEAD_OUT)
        return first_row(client, prompt, interventions=HEAD_OUT if kind == "changed" else ())

    jobs = [(kind, prompt) for prompt in prompts for kind in ("plain", "changed", "trace")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    for prompt, row, other in zip(prompts, alone, changed, strict=True):
        assert not np.array_equal(row, other)
        assert np.array_equal(results["plain", prompt], row)
        assert np.array_equal(results["changed", prompt], other)
        assert np.array_equal(first_row(client, prompt), row)


def test_refusals_come_through_the_client(client: Client) -> None:
    with pytest.raises(
        InvalidArgument, match=r"sites\[1\]\.heads\[0\]: 9 is not in \[0, 3\]"
    ) as caught:
        client.trace(TEXT, ["q", Site("z", heads=[9])])
    assert caught.value.field == "sites[1].heads[0]"
    with pytest.raises(InvalidArgument, match=r"interventions\[0\]\.add\.vector: has 12 bytes"):
        client.generate(TEXT, interventions=[Add("resid_post", 1, [1, 2, 3])]).read_texts()
    with pytest.raises(InvalidArgument, match=r"not in .*the positions of patch_from"):
        client.embed(TEXT, interventions=[Patch("z", 1, "a", positions=(0, 50))])
    with pytest.raises(InvalidArgument, match=r"open\.interventions\[0\]\.scale"):
        client.decode(TEXT, interventions=[Scale("z", 1, 1e9)])


def test_an_encoder_shows_its_inside_too(encoder: Client) -> None:
    info = encoder.model()
    assert (info.can("Trace"), info.can("Attention"), info.can("LogitLens")) == (True, True, False)
    trace = encoder.trace(TEXT, [site.name for site in info.sites])
    assert np.array_equal(
        trace.values("resid_post", 2), encoder.embed_tokens(TEXT, layers=[2]).vectors[0]
    )
    attention = encoder.attention(TEXT)
    assert attention.weights.all(), "every token sees every other"
    np.testing.assert_allclose(attention.weights.sum(-1), 1, atol=1e-5)
    out = encoder.embed(TEXT, interventions=[Scale("z", 2, 0.0, heads=[1])])
    assert not np.array_equal(out, encoder.embed(TEXT))
    with pytest.raises(Unimplemented, match="gives no logits"):
        encoder.logit_lens(TEXT)
    with pytest.raises(InvalidArgument, match="max_new_tokens"):
        encoder.trace(TEXT, "z", max_new_tokens=1)


def test_a_closed_server_and_small_budgets(tiny_model: Path) -> None:
    with (
        running_server(tiny_model, "--max-reply-bytes", "1000") as server,
        Client(server.address) as client,
    ):
        with pytest.raises(ResourceExhausted, match="the limit is 1000"):
            client.trace(TEXT, "resid_post")
        client.trace(TEXT, Site("z", [1], [0]), positions=(0, 2))
    with running_server(tiny_model, "--no-internals") as server, Client(server.address) as client:
        info = client.model()
        assert not info.sites
        assert not info.can("Trace")
        for call in (
            lambda: client.trace(TEXT, "z"),
            lambda: client.attention(TEXT),
            lambda: client.logit_lens(TEXT),
            lambda: client.embed(TEXT, interventions=HEAD_OUT),
        ):
            with pytest.raises(Unimplemented):
                call()


async def test_the_async_client_sees_the_same(address: str, client: Client) -> None:
    async with AsyncClient(address) as other:
        trace = await other.trace(TEXT, "z", interventions=HEAD_OUT)
        assert np.array_equal(
            trace.values("z", 3), client.trace(TEXT, "z", interventions=HEAD_OUT).values("z", 3)
        )
        attention = await other.attention(TEXT, rollout=True)
        assert np.array_equal(attention.weights, client.attention(TEXT, rollout=True).weights)
        lens = await other.logit_lens(TEXT, logits=[5, 6])
        assert np.array_equal(lens.logits, client.logit_lens(TEXT, logits=[5, 6]).logits)  # type: ignore[arg-type]
