"""What every client of the interop cases sends, and what is read of its answers."""

from __future__ import annotations

import base64
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tokenizer_service_pb2, types_pb2

TEXT = "The chicken didn't cross"
TEXTS = ["one", "two", "three"]
LARGE = "chicken " * 20_000  # its tokens take more than 1 MiB
TOO_LARGE = "x" * (5 << 20)  # more than max_request_bytes
SHORT, ENDLESS = 6, 2000  # tokens to generate
SOON, LONG = 0.4, 120.0  # seconds
REQUEST_ID = "interop-1"
BAD_FIELD = "options.layer"
ROWS = 64  # texts of the largest request
SERVICE = "headstream.v1.EmbeddingsService"
UNKNOWN = f"{SERVICE}/Unknown"
OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


def embed(**options: Any) -> embeddings_pb.EmbedRequest:
    item = embeddings_pb.EmbedInput(input=types_pb2.Input(text=TEXT))
    return embeddings_pb.EmbedRequest(inputs=[item], options=embeddings_pb.EmbedOptions(**options))


def generate(num_tokens: int) -> logits_pb.GenerateRequest:
    return logits_pb.GenerateRequest(
        prompt=types_pb2.Input(text=TEXT),
        # Without it the greedy choice of a random model is one token again and again.
        sampling=logits_pb.SamplingParams(frequency_penalty=2.0),
        stop=logits_pb.StopConditions(max_new_tokens=num_tokens, ignore_eos=True),
    )


def stream() -> list[embeddings_pb.EmbedStreamRequest]:
    return [
        embeddings_pb.EmbedStreamRequest(
            items=[
                embeddings_pb.EmbedStreamItem(
                    id=number, item=embeddings_pb.EmbedInput(input=types_pb2.Input(text=text))
                )
            ]
        )
        for number, text in enumerate(TEXTS, 1)
    ]


def tokenize(text: str) -> tokenizer_service_pb2.TokenizeRequest:
    return tokenizer_service_pb2.TokenizeRequest(text=text)


def vector(reply: embeddings_pb.EmbedResponse) -> str:
    """The first one's bytes, in base64."""
    return base64.b64encode(reply.results[0].embedding.vectors.data).decode()


def field_of(error: Any) -> str | None:
    """The field that an error's details name."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    request = error_details_pb2.BadRequest()
    fields = [each for each in status.details if each.Unpack(request)]
    return request.field_violations[0].field if fields else None
