"""Sites and patterns of a trace, through the engine, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract_requests import text
from engine_trace import News, Trace
from every_site import LAYERS, every_site
from headstream.model.sites import SiteName, SiteSpec, TraceSpec
from headstream.server.engine.core import EngineCore
from headstream.server.engine.look import Look
from headstream.server.engine.messages import FromEngine, StepReport, Submit
from site_oracle import SiteOracle
from tiny_models import DECODERS, ENCODERS

FAMILIES = [*DECODERS, *ENCODERS]


def stack(news: News, site: SiteName, layer: int, positions: range) -> np.ndarray:
    """Its rows at all positions."""
    return np.stack([news.sites[site, layer, position] for position in positions])


def check_equal(news: News, oracle: SiteOracle, positions: range, places: list[Any]) -> None:
    """Every value of these places is that of transformers."""
    for site, layer in places:
        theirs = oracle.values[site, layer][list(positions)].numpy()
        ours = stack(news, site, layer, positions)
        ours = ours[..., : theirs.shape[-1]] if site in {"pattern", "attn_scores"} else ours
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5, err_msg=f"{site} {layer}")


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_equals_transformers(
    family: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    """A prompt in two chunks and more, with sliding windows shorter than it."""
    length = 300
    trace = Trace(gentle[family], cache_dir, max_num_batched_tokens=330, max_num_seqs=4)
    sites, ids = every_site(trace), text(5, length)
    traced = trace.submit(ids, look=Look(TraceSpec(sites)))
    trace.run()
    news = trace.news[traced]
    assert news.finish == "length"
    places = [(site.name, layer) for site in sites for layer in site.layers]
    assert news.sites.keys() == {(*place, i) for place in places for i in range(length)}
    check_equal(news, SiteOracle(gentle[family]).run(ids), range(length), places)
    for layer in LAYERS:
        pattern = stack(news, "pattern", layer, range(length))  # [n, H, K]
        np.testing.assert_allclose(pattern.sum(-1), 1.0, atol=1e-6)
        if family in DECODERS:
            future = np.triu(np.ones((length, length), bool), 1)
            assert (pattern.transpose(1, 0, 2)[:, future] == 0.0).all()


@pytest.mark.parametrize("family", DECODERS)
def test_generated_tokens_are_traced_while_they_come(
    family: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle[family], cache_dir)
    sites, ids = every_site(trace), text(5, 40)
    traced = trace.submit(ids, 12, look=Look(TraceSpec(sites, start=30)))
    trace.run()
    news = trace.news[traced]
    assert len(news.token_ids) == 12
    places = [(site.name, layer) for site in sites for layer in site.layers]
    positions = range(30, 52)
    assert {key[2] for key in news.sites} == set(positions)
    oracle = SiteOracle(gentle[family]).run(ids + news.token_ids)
    plain = [place for place in places if place[0] not in {"pattern", "attn_scores"}]
    check_equal(news, oracle, positions, plain)
    for layer in LAYERS:
        for position in positions:
            theirs = oracle.values["pattern", layer][position].numpy()
            ours = news.sites["pattern", layer, position]  # [H, K]
            assert ours.shape[1] == max(40, position + 1)
            np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], atol=1e-5)


def test_a_range_of_positions_and_heads_is_cut_out(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["llama"], cache_dir)
    ids = text(5, 60)
    whole = trace.submit(ids, look=Look(TraceSpec(every_site(trace))))
    sites = (
        SiteSpec("q", (2,), (1, 3)),
        SiteSpec("pattern", (3,), (2,)),
        SiteSpec("v", (1,), (0,)),
    )
    part = trace.submit(ids, look=Look(TraceSpec(sites, 20, 23)))
    trace.run()
    rows = trace.news[part].sites
    assert rows.keys() == {
        (site, layer, i)
        for site, layer in (("q", 2), ("pattern", 3), ("v", 1))
        for i in (20, 21, 22)
    }
    for (site, layer, position), row in rows.items():
        heads = next(list(each.heads) for each in sites if each.name == site)
        theirs = trace.news[whole].sites[site, layer, position][heads]
        np.testing.assert_allclose(row, theirs, atol=1e-6)


def test_values_come_in_the_dtype_that_is_asked_for(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["llama"], cache_dir)
    sites = (SiteSpec("q", (2,), (1, 3)), SiteSpec("pattern", (1,), (2,)))
    reports: list[FromEngine] = []
    core = EngineCore(trace.runner, trace.scheduler, lambda report, _: reports.append(report))
    core.handle(Submit(1, tuple(text(5, 9)), look=Look(TraceSpec(sites, dtype="bfloat16"))))
    core.step()
    [report] = reports
    assert isinstance(report, StepReport)
    seen = report.deltas[0].seen
    assert seen is not None
    assert [(site.site, site.values.dtype, site.values.shape) for site in seen.sites] == [
        ("q", "bfloat16", (1, 9, 2, 16)),
        ("pattern", "bfloat16", (1, 9, 1, 9)),
    ]


def test_what_the_model_does_not_have_is_refused(gentle: dict[str, Path], cache_dir: Path) -> None:
    trace = Trace(gentle["llama"], cache_dir)
    wrong = {
        "vectors of positions": SiteSpec("pos_embed", (0,)),
        "layers: 4": SiteSpec("z", (4,), (0,)),
        "heads: 2": SiteSpec("k", (1,), (2,)),
        "heads: 0": SiteSpec("mlp_out", (1,), (0,)),
    }
    for message, site in wrong.items():
        refused = trace.submit([1, 2], look=Look(TraceSpec((site,))))
        trace.run()
        assert trace.news[refused].finish == "error"
        assert message in trace.news[refused].error
