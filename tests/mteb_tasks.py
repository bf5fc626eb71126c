"""Tasks of MTEB on texts that Python itself ships, and the baseline of shared words."""

from __future__ import annotations

from typing import Any

import datasets
import mteb
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

import labelled_texts

EACH = 24  # docstrings of a module; every third is learnt from
CHARACTERS = 200  # of a section
COMMON: dict[str, Any] = {
    "description": "Texts that Python ships.",
    "dataset": {"path": "local", "revision": "1"},
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
}


def task(**fields: Any) -> Any:
    return mteb.TaskMetadata(**(COMMON | fields))


class Headings(AbsTaskRetrieval):
    """The heading of a section of the language reference finds it."""

    metadata = task(name="Headings", type="Retrieval", main_score="ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        queries, corpus, relevant = labelled_texts.headed_sections(CHARACTERS)
        self.queries, self.corpus = {"test": queries}, {"test": corpus}
        self.relevant_docs = {
            "test": {query: dict.fromkeys(found, 1) for query, found in relevant.items()}
        }
        self.dataset: Any = {}
        self.data_loaded = True


class Modules(AbsTaskClassification):
    """Which module of the standard library a docstring stands in."""

    metadata = task(name="Modules", type="Classification", main_score="accuracy")

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        texts, labels = labelled_texts.docstrings(EACH)
        whole = datasets.Dataset.from_dict({"text": texts, "label": labels})
        learnt = range(0, len(texts), 3)
        self.dataset: Any = {
            "train": whole.select(learnt),
            "test": whole.select(sorted(set(range(len(texts))) - set(learnt))),
        }
        self.data_loaded = True


class WordOverlap(AbsEncoder):
    """The baseline: texts are alike that share rare words."""

    mteb_model_meta = ModelMeta.create_empty()

    def __init__(self) -> None:
        self.words = labelled_texts.word_vectors()

    def encode(self, inputs: Any, **_: Any) -> Any:
        return self.words([text for batch in inputs for text in batch["text"]])
