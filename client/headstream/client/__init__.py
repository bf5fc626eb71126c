"""A client for Headstream servers: next-token logits and contextual embeddings as numpy arrays."""

from __future__ import annotations

from headstream.client._async_client import AsyncClient
from headstream.client._async_decoding import AsyncBranch, AsyncDecoding
from headstream.client._async_embed_stream import AsyncEmbedStream
from headstream.client._attention import AttentionWeights
from headstream.client._channel import Tls
from headstream.client._client import Client
from headstream.client._continuation import Continuation
from headstream.client._decoding import Branch, Decoding
from headstream.client._embed_answer import EmbedAnswer
from headstream.client._embed_requests import EmbedOptions
from headstream.client._embed_stream import EmbedStream
from headstream.client._errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    EmbedError,
    ErrorDetails,
    FailedItem,
    FailedPrecondition,
    HeadstreamError,
    Internal,
    InvalidArgument,
    NotFound,
    NotResumable,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    StreamBroken,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from headstream.client._generation import AsyncGeneration, Generation
from headstream.client._interventions import Add, Intervention, Patch, Scale
from headstream.client._logit_lens import LogitLens
from headstream.client._priority import PriorityName
from headstream.client._results import (
    EmbeddingChoices,
    EmbeddingDefaults,
    Fingerprint,
    Limits,
    ModelInfo,
    ModelSizes,
    SiteInfo,
    StaticEmbeddings,
    Step,
    TextScores,
    Timings,
    TokenEmbeddings,
    TokenTable,
    TopLogits,
    Usage,
)
from headstream.client._sites import Site
from headstream.client._tensors import unpack_binary
from headstream.client._text_embedding import EmbedResult, TextEmbedding
from headstream.client._trace import Trace, TracedToken
from headstream.client._trace_stream import AsyncTraceStream, TraceStream

__all__ = [
    "Aborted",
    "Add",
    "AsyncBranch",
    "AsyncClient",
    "AsyncDecoding",
    "AsyncEmbedStream",
    "AsyncGeneration",
    "AsyncTraceStream",
    "AttentionWeights",
    "Branch",
    "Cancelled",
    "Client",
    "Continuation",
    "DeadlineExceeded",
    "Decoding",
    "EmbedAnswer",
    "EmbedError",
    "EmbedOptions",
    "EmbedResult",
    "EmbedStream",
    "EmbeddingChoices",
    "EmbeddingDefaults",
    "ErrorDetails",
    "FailedItem",
    "FailedPrecondition",
    "Fingerprint",
    "Generation",
    "HeadstreamError",
    "Internal",
    "Intervention",
    "InvalidArgument",
    "Limits",
    "LogitLens",
    "ModelInfo",
    "ModelSizes",
    "NotFound",
    "NotResumable",
    "Patch",
    "PermissionDenied",
    "PriorityName",
    "ResourceExhausted",
    "RpcError",
    "Scale",
    "Site",
    "SiteInfo",
    "StaticEmbeddings",
    "Step",
    "StreamBroken",
    "TextEmbedding",
    "TextScores",
    "Timings",
    "Tls",
    "TokenEmbeddings",
    "TokenTable",
    "TopLogits",
    "Trace",
    "TraceStream",
    "TracedToken",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "unpack_binary",
]
