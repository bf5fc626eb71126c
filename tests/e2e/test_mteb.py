"""MTEB over a real server, beside sentence-transformers, on texts that Python itself ships."""

from __future__ import annotations

from typing import Any

import pytest

import labelled_texts
from headstream.client import Client
from server_process import Server


def evaluate(model: Any) -> Any:
    """The results of both tasks."""
    import mteb

    from mteb_tasks import Headings, Modules

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        return mteb.evaluate(
            model, [Headings(), Modules()], cache=None, show_progress_bar=False, co2_tracker=False
        )


def scores(results: Any) -> dict[str, float]:
    """The main score of each task."""
    return {result.task_name: result.get_score() for result in results.task_results}


# MTEB calls itself and the library in ways that both give up.
@pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning")
@pytest.mark.slow
def test_scores_equal_sentence_transformers(minilm_server: Server, minilm_reference: Any) -> None:
    """Up to one near tie that falls the other way, and well above those of shared words."""
    from headstream.client.mteb import HeadstreamEncoder
    from mteb_tasks import WordOverlap

    with Client(minilm_server.address) as client:
        info = client.model()
        results = evaluate(HeadstreamEncoder(client))
    assert results.model_name == f"headstream/{info.name}"
    assert results.model_revision == info.fingerprint.weights_sha256
    ours = scores(results)
    assert ours == pytest.approx(scores(evaluate(minilm_reference)), abs=2.5e-3)
    words = scores(evaluate(WordOverlap()))
    assert ours["Headings"] > words["Headings"] + 0.1
    assert ours["Modules"] > words["Modules"] + 0.08
    assert words["Modules"] > 2 / len(labelled_texts.MODULES), "and that is more than chance"
