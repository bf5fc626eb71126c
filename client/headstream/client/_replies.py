"""From the contract's replies to results: pure functions that both clients call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from headstream.client import _results as results
from headstream.client._errors import EmbedError, FailedItem
from headstream.client._tensors import VECTOR_NAMES, to_array
from headstream.client._text_embedding import TextEmbedding, read_results
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstream.client._results import Array

_STATES: Mapping[int, Literal["loading", "serving", "failed"]] = {
    model_pb.MODEL_STATE_LOADING: "loading",
    model_pb.MODEL_STATE_SERVING: "serving",
    model_pb.MODEL_STATE_FAILED: "failed",
}
_POOLINGS: Mapping[int, Literal["mean", "last", "cls", "max"]] = {
    embeddings_pb.POOLING_MEAN: "mean",
    embeddings_pb.POOLING_LAST: "last",
    embeddings_pb.POOLING_CLS: "cls",
    embeddings_pb.POOLING_MAX: "max",
}


def embeddings(reply: embeddings_pb.EmbedResponse) -> Array:
    """The vectors of an Embed reply, stacked: [n, d], or [n, spans, d].

    Raises:
        EmbedError: Some items failed.
    """
    texts = read_results(reply.results)
    if failed := [text for text in texts if isinstance(text, FailedItem)]:
        raise EmbedError(failed)
    return np.stack([text.vectors for text in texts if isinstance(text, TextEmbedding)])


def static_embeddings(reply: embeddings_pb.LookupEmbeddingsResponse) -> results.StaticEmbeddings:
    """The rows of a LookupEmbeddings reply."""
    return results.StaticEmbeddings(
        token_ids=list(reply.tokens.ids),
        vectors=to_array(reply.rows),
        fingerprint=fingerprint(reply.fingerprint),
    )


def token_table(table: types_pb.TokenTable) -> results.TokenTable:
    """The tokens of a text."""
    return results.TokenTable(
        tokens=[surface.decode("utf-8", "replace") for surface in table.surfaces],
        surfaces=list(table.surfaces),
        token_ids=list(table.ids),
        offsets=list(zip(table.char_starts, table.char_ends, strict=True)),
        byte_offsets=list(zip(table.byte_starts, table.byte_ends, strict=True)),
        special=list(table.special),
    )


def usage(message: types_pb.Usage) -> results.Usage:
    """Counts of what a request used."""
    return results.Usage(
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        tensor_bytes=message.tensor_bytes,
    )


def timings(message: types_pb.Timings) -> results.Timings:
    """Where the time of a request went."""
    return results.Timings(
        tokenize_ns=message.tokenize_ns,
        queue_ns=message.queue_ns,
        compute_ns=message.compute_ns,
        first_output_ns=message.first_output_ns,
    )


def fingerprint(message: types_pb.ModelFingerprint) -> results.Fingerprint:
    """Which numbers these are."""
    return results.Fingerprint(
        model=message.model,
        weights_sha256=message.weights_sha256,
        dtype=message.dtype,
        backend=message.backend,
        batch_invariant=message.batch_invariant,
        quantization=message.quantization,
    )


def model_info(model: model_pb.Model) -> results.ModelInfo:
    """A served model."""
    return results.ModelInfo(
        name=model.name,
        state=_STATES.get(model.state, "unknown"),
        family=model.family,
        architecture=model.architecture,
        sizes=_sizes(model.sizes),
        limits=_limits(model.limits),
        capabilities={item.method: item.served for item in model.capabilities},
        eos_token_ids=list(model.eos_token_ids),
        fingerprint=fingerprint(model.fingerprint),
        embedding=_embedding(model),
        bidirectional=model.bidirectional,
        embedding_choices=_choices(model.embedding_choices),
        sites=tuple(_site(site) for site in model.sites),
    )


def _site(message: model_pb.ModelSite) -> results.SiteInfo:
    return results.SiteInfo(
        name=message.name,
        per_layer=message.per_layer,
        heads=message.heads,
        width=message.width,
        changeable=message.changeable,
    )


def _choices(message: model_pb.EmbeddingChoices) -> results.EmbeddingChoices:
    return results.EmbeddingChoices(
        poolings=tuple(_POOLINGS[kind] for kind in message.poolings if kind in _POOLINGS),
        dtypes=tuple(VECTOR_NAMES[kind] for kind in message.dtypes if kind in VECTOR_NAMES),
        max_dimensions=message.max_dimensions,
    )


def _embedding(model: model_pb.Model) -> results.EmbeddingDefaults:
    """What it says; a model that is not loaded, or of an older server, says nothing."""
    if not model.HasField("embedding"):
        return results.EmbeddingDefaults()
    message = model.embedding
    return results.EmbeddingDefaults(
        pooling=_POOLINGS.get(message.pooling, "mean"),
        pool_special_tokens=message.pool_special_tokens,
        pool_prompt=message.pool_prompt,
        normalize=message.normalize,
        prompts=dict(message.prompts),
        default_prompt_name=message.default_prompt_name,
    )


def _sizes(message: model_pb.ModelSizes) -> results.ModelSizes:
    return results.ModelSizes(
        layers=message.layers,
        dimensions=message.dimensions,
        heads=message.heads,
        kv_heads=message.kv_heads,
        head_dimensions=message.head_dimensions,
        vocabulary=message.vocabulary,
        parameters=message.parameters,
    )


def _limits(message: model_pb.Limits) -> results.Limits:
    return results.Limits(
        max_model_tokens=message.max_model_tokens,
        max_text_bytes=message.max_text_bytes,
        max_inputs=message.max_inputs,
        max_new_tokens=message.max_new_tokens,
        max_top_k=message.max_top_k,
        max_reply_bytes=message.max_reply_bytes,
        max_queued_requests=message.max_queued_requests,
        max_queued_tokens=message.max_queued_tokens,
        max_branches=message.max_branches,
        max_continuations=max(1, message.max_continuations),
        max_stream_items=message.max_stream_items,
        max_interventions=message.max_interventions,
        max_intervention_value=message.max_intervention_value,
        max_intervention_factor=message.max_intervention_factor,
        max_intervention_bytes=message.max_intervention_bytes,
        max_sites=message.max_sites,
        max_look_bytes=message.max_look_bytes,
        max_session_tokens=message.max_session_tokens,
        max_all_session_tokens=message.max_all_session_tokens,
        session_idle_seconds=message.session_idle_seconds,
        session_seconds=message.session_seconds,
    )
