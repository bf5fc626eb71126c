"""Models, their fingerprints, and what a request used."""

from __future__ import annotations

from collections.abc import Iterable

from headstream.model.outputs import EmbeddingDefaults, PoolKind
from headstream.model.site_shapes import SiteShape
from headstream.server.engine.messages import Ready
from headstream.server.limits import Limits
from headstream.server.wire.sites import site_shapes
from headstream.server.wire.tensors import VECTOR_TYPES
from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import internals_service_pb2, logits_service_pb2, types_pb2
from headstream.v1 import model_service_pb2 as pb

_LOGITS_SERVICE: str = logits_service_pb2.DESCRIPTOR.services_by_name["LogitsService"].full_name
_LENS: str = (
    internals_service_pb2.DESCRIPTOR.services_by_name["InternalsService"].full_name + "/LogitLens"
)
_POOLING: dict[PoolKind, embed_pb.Pooling.ValueType] = {
    "mean": embed_pb.POOLING_MEAN,
    "last": embed_pb.POOLING_LAST,
    "cls": embed_pb.POOLING_CLS,
    "max": embed_pb.POOLING_MAX,
}


def to_fingerprint(name: str, ready: Ready) -> types_pb2.ModelFingerprint:
    """Which numbers a model gives."""
    return types_pb2.ModelFingerprint(
        model=name,
        weights_sha256=ready.weights_sha256,
        dtype=ready.dtype,
        quantization=ready.quantization,
        backend=ready.backend,
        batch_invariant=ready.batch_invariant,
    )


def to_model(
    name: str,
    state: pb.ModelState.ValueType,
    ready: Ready | None,
    limits: Limits | None,
    capabilities: Iterable[tuple[str, bool]],
) -> pb.Model:
    """A model as it stands; sizes and limits are there once it is loaded.

    ``capabilities``: the methods that this server serves, or does not.
    """
    without_logits = ready is not None and not ready.unembeds
    model = pb.Model(
        name=name,
        state=state,
        capabilities=[
            pb.Capability(
                method=method,
                served=served
                and not (without_logits and method.startswith((_LOGITS_SERVICE, _LENS))),
            )
            for method, served in capabilities
        ],
    )
    if ready is not None:
        model.fingerprint.CopyFrom(to_fingerprint(name, ready))
        model.family = ready.family
        model.architecture = ready.architecture
        model.eos_token_ids.extend(ready.eos_ids)
        model.sizes.CopyFrom(_to_sizes(ready))
        model.embedding.CopyFrom(_to_embedding(ready.embedding))
        model.bidirectional = not ready.causal
        model.embedding_choices.CopyFrom(
            pb.EmbeddingChoices(
                poolings=_POOLING.values(), dtypes=VECTOR_TYPES, max_dimensions=ready.d_model
            )
        )
    if limits is not None:
        model.limits.CopyFrom(_to_limits(limits))
    if ready is not None and limits is not None and limits.internals:
        model.sites.extend(_to_site(shape) for shape in site_shapes(ready).values())
    return model


def _to_site(shape: SiteShape) -> pb.ModelSite:
    return pb.ModelSite(
        name=shape.name,
        per_layer=shape.per_layer,
        heads=shape.heads,
        width=shape.width,
        changeable=shape.changeable,
    )


def _to_sizes(ready: Ready) -> pb.ModelSizes:
    return pb.ModelSizes(
        layers=ready.n_layers,
        dimensions=ready.d_model,
        heads=ready.n_heads,
        kv_heads=ready.n_kv_heads,
        head_dimensions=ready.d_head,
        vocabulary=ready.d_vocab,
        parameters=ready.parameters,
    )


def _to_embedding(defaults: EmbeddingDefaults) -> pb.EmbeddingDefaults:
    return pb.EmbeddingDefaults(
        pooling=_POOLING[defaults.pooling],
        pool_special_tokens=defaults.pool_special,
        pool_prompt=defaults.pool_prompt,
        normalize=defaults.normalize,
        prompts=defaults.prompts,
        default_prompt_name=defaults.default_prompt,
    )


def _to_limits(limits: Limits) -> pb.Limits:
    return pb.Limits(
        max_model_tokens=limits.max_model_len,
        max_text_bytes=limits.max_text_bytes,
        max_inputs=limits.max_inputs,
        max_new_tokens=limits.max_new_tokens,
        max_top_k=limits.max_top_k,
        max_reply_bytes=limits.max_reply_bytes,
        max_queued_requests=limits.max_queued_requests,
        max_queued_tokens=limits.max_queued_tokens,
        max_branches=limits.max_branches,
        max_session_tokens=limits.max_session_tokens,
        max_all_session_tokens=limits.max_all_session_tokens,
        session_idle_seconds=limits.session_idle_seconds,
        session_seconds=limits.session_seconds,
        max_continuations=limits.max_continuations,
        max_stream_items=limits.max_stream_items,
        max_interventions=limits.max_interventions,
        max_intervention_value=limits.max_intervention_value,
        max_intervention_factor=limits.max_intervention_factor,
        max_intervention_bytes=limits.max_intervention_bytes,
        max_sites=limits.max_sites,
        max_look_bytes=limits.max_look_bytes if limits.internals else 0,
    )
