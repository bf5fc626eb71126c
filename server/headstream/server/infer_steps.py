"""A continuation in messages of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from headstream.open_inference import inference_pb2 as pb
from headstream.server.models import LoadedModel
from headstream.server.wire.bulk import to_message
from headstream.server.wire.generate import Reply
from headstream.server.wire.infer import LOGITS, LOGITS_IDS, TEXT, TOKEN_IDS, to_response
from headstream.server.wire.named_tensors import put_array, put_texts
from headstream.v1 import logits_service_pb2

FINAL = "triton_final_response"

_FINISH = logits_service_pb2.FinishReason


async def infer_steps(
    request: pb.ModelInferRequest,
    wanted: tuple[str, ...],
    model: LoadedModel,
    replies: AsyncIterator[Reply],
) -> AsyncIterator[pb.ModelInferResponse]:
    """A message for each token, then one that says why the continuation ended."""
    async for each in replies:
        reply = to_message(each)
        if reply.HasField("step"):
            answer = to_response(request, model.name, model.ready)
            logits = reply.step.logits
            data = logits.values.data
            while reply.step.chunks and len(data) < 4 * logits.values.shape[0]:
                data += to_message(await anext(replies)).chunk.data  # they come right behind it
            arrays = {
                TOKEN_IDS: np.array([[reply.step.token_id]], "<i4"),  # [1, 1]
                LOGITS: np.frombuffer(data, "<f4")[None],  # [1, k] or [1, V]
                LOGITS_IDS: np.array([logits.token_ids], "<i4"),  # [1, k]
            }
            _put(answer, wanted, arrays, reply.step.text)
            answer.parameters[FINAL].bool_param = False
            yield answer
        elif reply.HasField("end"):
            answer = to_response(request, model.name, model.ready)
            _put(answer, wanted, {}, reply.end.text)
            reason = _FINISH.Name(reply.end.finish_reason).removeprefix("FINISH_REASON_").lower()
            answer.parameters["finish_reason"].string_param = reason
            answer.parameters[FINAL].bool_param = True
            yield answer


def _put(
    answer: pb.ModelInferResponse,
    wanted: tuple[str, ...],
    arrays: dict[str, np.ndarray],
    text: str,
) -> None:
    for name in wanted:
        if name == TEXT:
            put_texts(answer, TEXT, [text])
        elif name in arrays:
            put_array(answer, name, arrays[name])
