"""ModelService: what is served, and within which limits."""

from __future__ import annotations

from collections.abc import Sequence

from headstream.server.call import current_call
from headstream.server.context import Context
from headstream.server.engine.state import EngineState
from headstream.server.models import Models, ServedModel
from headstream.server.wire.model import to_model
from headstream.v1 import model_service_pb2 as pb
from headstream.v1 import model_service_pb2_grpc

_STATES: dict[EngineState, pb.ModelState.ValueType] = {
    EngineState.LOADING: pb.MODEL_STATE_LOADING,
    EngineState.SERVING: pb.MODEL_STATE_SERVING,
    EngineState.FAILED: pb.MODEL_STATE_FAILED,
    EngineState.STOPPED: pb.MODEL_STATE_FAILED,
}


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers in every state, also while weights are being loaded."""

    def __init__(self, models: Models, capabilities: Sequence[tuple[str, bool]]) -> None:
        self._models = models
        self._capabilities = capabilities

    async def ListModels(  # noqa: N802 - named by the contract
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.ListModelsResponse:
        """All models, the default one first."""
        return pb.ListModelsResponse(models=[self._describe(model) for model in self._models])

    async def GetModel(  # noqa: N802 - named by the contract
        self,
        request: pb.GetModelRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.GetModelResponse:
        """One model."""
        model = self._models.find(request.model)
        current_call().model = model.name
        return pb.GetModelResponse(model=self._describe(model))

    def _describe(self, model: ServedModel) -> pb.Model:
        state = model.handle.state
        loaded = model.loaded
        if state is EngineState.SERVING and not model.serving:  # the tokenizer is still being read
            state = EngineState.LOADING
        return to_model(
            model.name,
            _STATES[state],
            None if loaded is None else loaded.ready,
            None if loaded is None else loaded.limits,
            self._capabilities,
        )
