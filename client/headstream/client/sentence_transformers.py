"""A served model in the shape of sentence-transformers' `SentenceTransformer`.

    from headstream.client.sentence_transformers import HeadstreamTransformer

    model = HeadstreamTransformer(Client("localhost:50051"))
    model.similarity(model.encode_query(["a question"]), model.encode_document(texts))

Needs neither that library nor torch, which is imported where tensors are asked for.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from headstream.client._similarity import SIMILARITIES, SimilarityName, similarity
from headstream.client._text_model import TextModel, own_prompt
from headstream.client._torch_tensors import to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from headstream.client._client import Client
    from headstream.client._embed_requests import EmbedOptions
    from headstream.client._results import Array
    from headstream.client._text_model import Kind

__all__ = ["HeadstreamTransformer"]

Precision: TypeAlias = Literal["float32", "binary", "ubinary"]


class HeadstreamTransformer:
    """A model that a Headstream server serves, encoded as that library encodes it.

    The vectors of a directory of sentence-transformers are those of the library. Texts too long for
    the model are cut, as it does; empty ones are refused, which it takes. Every method that encodes
    raises an `RpcError` when its call fails. Threads may share it.

    Args:
        client: Whose server it is; it is the caller's to close.
        model: Name of the model; empty for the server's first.
        similarity_fn_name: "cosine" or "dot".
        truncate_dim: Dimensions to keep where `encode` does not say. None: all.

    Raises:
        NotFound: The server has no model of that name.
        ValueError: `similarity_fn_name` is an unknown word, or `truncate_dim` below 1.
    """

    def __init__(
        self,
        client: Client,
        *,
        model: str = "",
        similarity_fn_name: SimilarityName = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        if similarity_fn_name not in SIMILARITIES:
            words = ", ".join(SIMILARITIES)
            raise ValueError(f"similarity_fn_name {similarity_fn_name!r} is none of {words}")
        _check_dim(truncate_dim)
        self._model = TextModel(client, model, truncate=True)
        self.similarity_fn_name: SimilarityName = similarity_fn_name
        self.truncate_dim = truncate_dim
        self.model_card_data = _NoModelCard()

    # --- The model ---

    @property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts, by their names."""
        return dict(self._model.info.embedding.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """Of the prompt that is used unasked."""
        return self._model.info.embedding.default_prompt_name or None

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text that are read, special ones included."""
        return self._model.info.limits.max_model_tokens

    def get_embedding_dimension(self) -> int:
        """Number of dimensions of a vector."""
        return min(self._model.dimensions, self.truncate_dim or self._model.dimensions)

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name

    # --- Texts ---

    def encode(
        self,
        sentences: str | Sequence[str] | Array,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,  # noqa: ARG002
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Vectors of texts, in their order.

        Args:
            sentences: A text, or a list, tuple or array of any number of them.
            prompt_name: One of the model's own prompts, put before each. Does not count beside
                `prompt`.
            prompt: The prompt itself; "" for none. None: the model's default prompt, if any.
            batch_size: At least 1, and means nothing here: the server packs by itself.
            show_progress_bar: True shows one, which needs tqdm.
            output_value: Other vectors than those of texts come from `Client.embed_tokens`.
            precision: "binary" and "ubinary" have a bit a dimension, packed. The ranges of "int8"
                and "uint8" are those of all texts of a call there, and refused: see
                `Client.embed_each` for int8 with a scale a vector.
            convert_to_numpy: False gives a list of tensors.
            convert_to_tensor: Give one tensor instead.
            device: Means nothing here.
            normalize_embeddings: Scale to length 1, also where the model's own vectors are not.
            truncate_dim: Dimensions to keep; more than there are keep all. None: the object's.

        Returns:
            [d] for a single text, [n, d] for several: numpy float32, int8 of "binary", uint8 of
            "ubinary" [..., ceil(d / 8)], or tensors.

        Raises:
            EmbedError: A text could not be embedded, such as an empty one.
            ImportError: A tensor or a bar needs a package that is not installed.
            TypeError: A text is not a string.
            ValueError: An argument asks for what is not there.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it is at least 1")
        if output_value != "sentence_embedding":
            raise ValueError(f"output_value {output_value!r} is not supported")
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        vectors = self._vectors(
            texts,
            _prompt(prompt_name, prompt),
            dim=self._model.dimensions if dim is None else dim,
            precision=precision or "float32",
            normalize=normalize_embeddings,
            show=bool(show_progress_bar),
        )
        shaped = vectors[0] if isinstance(sentences, str) else vectors
        if convert_to_tensor or not convert_to_numpy:
            tensor = to_tensor(shaped)
            return tensor if convert_to_tensor or isinstance(sentences, str) else list(tensor)
        return shaped

    def encode_query(
        self,
        sentences: str | Sequence[str] | Array,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """As `encode`, of queries: the model's own prompt `query` goes before each, or none."""
        return self._encode_kind("query", sentences, prompt_name, prompt, options)

    def encode_document(
        self,
        sentences: str | Sequence[str] | Array,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """As `encode`, of documents: the model's own prompt `document` goes before each."""
        return self._encode_kind("document", sentences, prompt_name, prompt, options)

    # --- Vectors ---

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Of each of the first [n, d] with each of the second [m, d]: arrays, tensors, or lists.

        Returns:
            [n, m], float32; a tensor where one of them is.
        """
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Of each of the first [n, d] with its counterpart of the second [n, d]: [n]."""
        return similarity(self.similarity_fn_name, embeddings1, embeddings2, pairwise=True)

    def _encode_kind(
        self,
        kind: Kind,
        sentences: str | Sequence[str] | Array,
        prompt_name: str | None,
        prompt: str | None,
        options: Mapping[str, Any],
    ) -> Any:
        if prompt_name is None and prompt is None:
            own = own_prompt(self._model.info, kind)
            prompt_name, prompt = own.get("prompt_name"), own.get("prompt")
        return self.encode(sentences, prompt_name, prompt, **options)

    def _vectors(
        self,
        texts: list[str],
        options: EmbedOptions,
        *,
        dim: int,
        precision: str,
        normalize: bool,
        show: bool,
    ) -> Array:
        """[n, dim], or packed [n, ceil(dim / 8)]."""
        _check_dim(dim)
        if precision not in ("float32", "binary", "ubinary"):
            raise ValueError(f"precision {precision!r} is not supported")
        dim = min(dim, self._model.dimensions)
        options["normalize"] = True if normalize else None
        options["dtype"] = "float32" if precision == "float32" else "binary"
        # The server scales what it has cut, the library cuts what the model has scaled.
        cut_here = precision == "float32" and not normalize and self._model.info.embedding.normalize
        options["dimensions"] = None if cut_here else dim
        with _progress(len(texts), show=show) as answered:
            vectors = self._model.embed(texts, answered, **options)
        if precision == "binary":
            packed: Array = (vectors ^ 0x80).view(np.int8)  # from 0 to 255, to -128 to 127
            return packed
        return vectors[:, :dim] if cut_here else vectors


class _NoModelCard:
    """Where the library's evaluators would write their results."""

    def set_evaluation_metrics(self, *_: object) -> None:
        """They are returned; a served model has no card to keep them."""


def _prompt(prompt_name: str | None, prompt: str | None) -> EmbedOptions:
    if prompt is not None:
        return {"prompt": prompt}
    return {"prompt_name": prompt_name}


def _check_dim(truncate_dim: int | None) -> None:
    if truncate_dim is not None and truncate_dim < 1:
        raise ValueError(f"truncate_dim is {truncate_dim}; it is at least 1")


@contextlib.contextmanager
def _progress(count: int, *, show: bool) -> Generator[Callable[[int], object] | None]:
    """What is told of texts that are done."""
    if not show:
        yield None
        return
    from tqdm import tqdm  # noqa: PLC0415 - only who wants a bar needs it

    with tqdm(total=count, desc="Texts") as bar:
        yield bar.update
