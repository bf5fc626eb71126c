"""A served model in MTEB, the benchmark of text embeddings.

pip install headstream[mteb]

from headstream.client.mteb import HeadstreamEncoder

encoder = HeadstreamEncoder(Client("localhost:50051"))
mteb.evaluate(encoder, mteb.get_tasks(["STSBenchmark"]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_meta import ModelMeta, ScoringFunction

from headstream.client.sentence_transformers import HeadstreamTransformer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType

    from headstream.client._client import Client
    from headstream.client._results import Array

__all__ = ["HeadstreamEncoder"]


class HeadstreamEncoder(AbsEncoder):
    """A model that a Headstream server serves, for `mteb.evaluate`.

    Prompts are chosen as MTEB chooses them for a `SentenceTransformer`: those of the model whose
    names are a task, a kind of task, or a kind of text. Results carry the name under which the
    model is served and, as their revision, the hash of its weights; so a cache of results keeps
    models apart. Errors are those of `HeadstreamTransformer`.

    Args:
        client: Whose server it is; it is the caller's to close.
        model: Name of the model; empty for the server's first.

    Raises:
        NotFound: The server has no model of that name.
    """

    def __init__(self, client: Client, *, model: str = "") -> None:
        info = client.model(model)
        self.model = HeadstreamTransformer(client, model=model)
        self.model_prompts, _ = self.validate_task_to_prompt_name(
            self.model.prompts, raise_for_invalid_keys=False
        )
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"headstream/{info.name}",
                "revision": info.fingerprint.weights_sha256,
                "n_parameters": info.sizes.parameters,
                "max_tokens": self.model.max_seq_length,
                "embed_dim": self.model.get_embedding_dimension(),
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Array:
        """Vectors [n, d] of the texts of a task.

        Args:
            inputs: Batches; each has its texts under "text".
            task_metadata: What task it is.
            hf_split: Part of its data.
            hf_subset: The same.
            prompt_type: Whether they are queries or documents.
            kwargs: Of `HeadstreamTransformer.encode`, such as `show_progress_bar`.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        encode = {
            "query": self.model.encode_query,
            "document": self.model.encode_document,
        }.get(prompt_type.value if prompt_type else "", self.model.encode)
        prompt = get_prompt(self.model_prompts, task_metadata, prompt_type)
        vectors: Array = encode(texts, prompt=prompt, **kwargs)
        return vectors
