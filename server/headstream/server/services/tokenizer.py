"""TokenizerService: the same tokens that the model's own requests get."""

from __future__ import annotations

import asyncio

from headstream.server.context import Context
from headstream.server.models import Models
from headstream.server.sequence_run import tokenize
from headstream.server.wire.fields import check_count, check_token_ids
from headstream.server.wire.inputs import TextInput, check_text
from headstream.server.wire.tokens import to_table
from headstream.v1 import tokenizer_service_pb2 as pb
from headstream.v1 import tokenizer_service_pb2_grpc


class TokenizerService(tokenizer_service_pb2_grpc.TokenizerServiceServicer):
    """Text to tokens and back."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def Tokenize(  # noqa: N802 - named by the contract
        self,
        request: pb.TokenizeRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.TokenizeResponse:
        """The tokens of a text."""
        model = self._models.get(request.model)
        text, _ = check_text("text", request.text, model.limits)
        tokens = await tokenize(model, TextInput(text, request.skip_special_tokens))
        return pb.TokenizeResponse(tokens=to_table(tokens))

    async def Detokenize(  # noqa: N802 - named by the contract
        self,
        request: pb.DetokenizeRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.DetokenizeResponse:
        """The text of tokens, and the bytes of each."""
        model = self._models.get(request.model)
        limits = model.limits
        check_count("ids", request.ids, 0, limits.max_model_len)
        ids = check_token_ids("ids", request.ids, limits.d_vocab)
        skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        text = await asyncio.to_thread(model.tokenizer.decode, ids, skip_special=skip)
        surfaces = [model.tokenizer.surfaces[token_id] for token_id in ids]
        return pb.DetokenizeResponse(text=text, surfaces=surfaces)
