"""GRPCInferenceService: the Open Inference Protocol over the same engines as our own services."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np

from headstream.open_inference import inference_pb2 as pb
from headstream.open_inference import inference_pb2_grpc
from headstream.server.call import current_call
from headstream.server.context import Context
from headstream.server.embedder import Embedder
from headstream.server.engine.priority import Priority
from headstream.server.errors import EngineFault, EngineUnavailable, ServiceError, SessionExpired
from headstream.server.first_request import first_request
from headstream.server.health import Health
from headstream.server.infer_steps import FINAL, infer_steps
from headstream.server.metrics import Metrics, package_version
from headstream.server.models import LoadedModel, Models
from headstream.server.next_tokens import next_tokens
from headstream.server.prompt_logits import prompt_logits
from headstream.server.services.logits import LogitsService
from headstream.server.status import public_message
from headstream.server.wire.infer import (
    EMBEDDING,
    LOGITS,
    LOGITS_IDS,
    MAX_ID_LENGTH,
    PROMPT_LOGITS,
    PROMPT_LOGITS_IDS,
    TOKEN_IDS,
    VERSION,
    InferCall,
    check_id,
    check_version,
    fields_of,
    parse_continue,
    parse_infer,
    to_response,
)
from headstream.server.wire.named_tensors import INPUT_IDS, TEXT, put_array
from headstream.server.wire.parameters import CONTINUES
from headstream.v1 import embeddings_service_pb2

TensorMetadata = pb.ModelMetadataResponse.TensorMetadata


class OpenInferenceService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Named tensors in, named tensors out."""

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        health: Health,
        *,
        session_idle: float,
        session_deadline: float,
    ) -> None:
        """Seconds that a stream may be open without a request, and in any case."""
        self._models = models
        self._metrics = metrics
        self._health = health
        self._session_idle = session_idle
        self._session_deadline = session_deadline
        self._logits = LogitsService(models, metrics, session_idle)

    async def ServerLive(  # noqa: N802 - named by the protocol
        self,
        request: pb.ServerLiveRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ServerLiveResponse:
        """It is, if this comes back."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802 - named by the protocol
        self,
        request: pb.ServerReadyRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ServerReadyResponse:
        """What grpc.health.v1 says of the server."""
        return pb.ServerReadyResponse(ready=self._health.serving)

    async def ModelReady(  # noqa: N802 - named by the protocol
        self,
        request: pb.ModelReadyRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ModelReadyResponse:
        """What it says of a model."""
        check_version(request.version)
        model = self._models.find(request.name)
        current_call().model = model.name
        return pb.ModelReadyResponse(ready=self._health.serves(model))

    async def ServerMetadata(  # noqa: N802 - named by the protocol
        self,
        request: pb.ServerMetadataRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ServerMetadataResponse:
        """Name and version."""
        return pb.ServerMetadataResponse(name="headstream", version=package_version())

    async def ModelMetadata(  # noqa: N802 - named by the protocol
        self,
        request: pb.ModelMetadataRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ModelMetadataResponse:
        """The tensors of a model."""
        check_version(request.version)
        model = self._models.get(request.name)
        outputs = [TensorMetadata(name=EMBEDDING, datatype="FP32", shape=[-1, -1])]
        if model.ready.unembeds:
            outputs.append(TensorMetadata(name=LOGITS, datatype="FP32", shape=[-1, -1]))
            outputs.append(TensorMetadata(name=TOKEN_IDS, datatype="INT32", shape=[-1, 1]))
            every = TensorMetadata(name=PROMPT_LOGITS, datatype="FP32", shape=[-1, -1, -1])
            outputs.append(every)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[VERSION],
            platform="headstream",
            inputs=[
                TensorMetadata(name=TEXT, datatype="BYTES", shape=[-1]),
                TensorMetadata(name=INPUT_IDS, datatype="INT64", shape=[-1, -1]),
            ],
            outputs=outputs,
        )

    async def ModelInfer(  # noqa: N802 - named by the protocol
        self,
        request: pb.ModelInferRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ModelInferResponse:
        """The outputs asked for; one text that is wrong fails them all."""
        return await self._infer(request)

    async def ModelStreamInfer(  # noqa: N802 - named by the protocol
        self,
        request_iterator: AsyncIterator[pb.ModelInferRequest],
        context: Context,
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """The answers to requests in their order; one that fails does not end the stream."""
        end = time.monotonic() + self._session_deadline
        while request := await first_request(request_iterator, self._session_idle, "request"):
            if time.monotonic() > end:
                raise SessionExpired(f"open for more than {self._session_deadline:g} s")
            try:
                async with aclosing(self._answers(request, context)) as answers:
                    async for answer in answers:
                        yield pb.ModelStreamInferResponse(infer_response=answer)
            except (EngineFault, EngineUnavailable):
                raise
            except ServiceError as error:
                failed = pb.ModelStreamInferResponse(
                    error_message=public_message(error, current_call().request_id)
                )
                failed.infer_response.model_name = request.model_name[:MAX_ID_LENGTH]
                failed.infer_response.id = request.id[:MAX_ID_LENGTH]
                failed.infer_response.parameters[FINAL].bool_param = True
                yield failed

    async def _answers(
        self, request: pb.ModelInferRequest, context: Context
    ) -> AsyncGenerator[pb.ModelInferResponse]:
        check_id(request.id)
        if CONTINUES not in request.parameters:
            answer = await self._infer(request)
            answer.parameters[FINAL].bool_param = True
            yield answer
            return
        check_version(request.model_version)
        model = self._models.get_for_logits(request.model_name, Priority.NORMAL, "ModelStreamInfer")
        prompt, wanted = parse_continue(request, model.limits)
        with fields_of(request.inputs[0].name):
            # Any: a generator, which the generated types call an iterator.
            replies: Any = self._logits.Generate(prompt, context)
            async with aclosing(replies):
                async for answer in infer_steps(request, wanted, model, replies):
                    yield answer

    async def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        check_id(request.id)
        check_version(request.model_version)
        model = self._models.get(request.model_name)
        call = parse_infer(request, model.ready, model.limits)
        if call.goes_on or call.reads_prompt:
            self._models.get_for_logits(request.model_name, Priority.NORMAL, "ModelInfer")
        with fields_of(call.tensor):
            arrays = {  # the stricter limits first
                **(await self._read_prompt(model, call) if call.reads_prompt else {}),
                **(await self._go_on(model, call) if call.goes_on else {}),
                **(await self._embed(model, call) if EMBEDDING in call.wanted else {}),
            }
        answer = to_response(request, model.name, model.ready)
        for name in call.wanted:
            put_array(answer, name, arrays[name])
        return answer

    async def _embed(self, model: LoadedModel, call: InferCall) -> dict[str, np.ndarray]:
        embedder = Embedder(model, self._metrics, call.options, ())
        inputs = [embeddings_service_pb2.EmbedInput(input=each) for each in call.inputs]
        results = await embedder.embed(inputs, call.tensor, all_or_none=True)
        data = b"".join(result.embedding.vectors.data for result in results)
        return {EMBEDDING: np.frombuffer(data, "<f4").reshape(len(results), -1)}  # [n, d]

    async def _go_on(self, model: LoadedModel, call: InferCall) -> dict[str, np.ndarray]:
        """The likeliest next token of each text, and the logits behind it."""
        tokens = await next_tokens(model, self._metrics, call.tensor, call.inputs, call.logits)
        data = b"".join(token.logits.data for token in tokens if token.logits is not None)
        return {
            TOKEN_IDS: np.array([[token.token_id] for token in tokens], "<i4"),  # [n, 1]
            LOGITS: np.frombuffer(data, "<f4").reshape(len(tokens), -1),  # [n, k] or [n, V]
            LOGITS_IDS: np.array([token.logits_ids for token in tokens], "<i4"),  # [n, k]
        }

    async def _read_prompt(self, model: LoadedModel, call: InferCall) -> dict[str, np.ndarray]:
        """The logits behind every token of each text, which have one length."""

        def check_size(length: int) -> None:
            call.check_size(model.limits, length)

        values, ids = await prompt_logits(
            model,
            self._metrics,
            call.tensor,
            call.inputs,
            call.prompt_logits,
            check_size=check_size,
        )
        return {PROMPT_LOGITS: values, PROMPT_LOGITS_IDS: ids}  # [n, L, k] or [n, L, V]; [n, L, k]
