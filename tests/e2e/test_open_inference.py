"""The Open Inference Protocol of a real server, beside its own services, bit for bit."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import inference_requests as make
from headstream.open_inference import inference_pb2_grpc
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from server_process import Server, running_server

V = 420
K = 5
TEXTS = [[5, 6, 7, 8, 9] * 70, [9, 8, 7, 6, 5] * 70]  # longer than a chunk of a prompt


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    flags = ("--dtype", "float32", "--open-inference", "--max-message-bytes", str(16 << 20))
    with running_server(tiny_model, *flags) as server:
        yield server


def infer(server: Server, *outputs: str, texts: Any = TEXTS, **parameters: Any) -> dict[str, Any]:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as channel:
        stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        reply = stub.ModelInfer(make.of_ids(texts, outputs, **parameters), timeout=60)
    return make.arrays(reply)


def scored(server: Server, ids: list[int], mode: Any) -> tuple[bytes, list[int]]:
    """The rows that score the tokens of a text but the first, and their token ids."""
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(server.channel)
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=ids))
    logits = pb.LogitsOptions(mode=mode, top_k=K if mode == pb.LOGITS_MODE_TOP_K else None)
    replies = list(stub.Score(pb.ScoreRequest(inputs=[prompt], logits=logits), timeout=60))
    parts = [reply.positions.logits for reply in replies if reply.HasField("positions")]
    data = b"".join(part.values.data for part in parts)
    return data, [each for part in parts for each in part.token_ids]


def test_the_rows_of_all_positions_are_those_of_score_and_of_the_next_token(
    running: Server,
) -> None:
    outputs = infer(running, "prompt_logits", "logits")
    rows = outputs["prompt_logits"]
    assert rows.shape == (2, len(TEXTS[0]), V)
    assert rows[:, -1].tobytes() == outputs["logits"].tobytes()
    for own, ids in zip(rows, TEXTS, strict=True):
        assert own[:-1].tobytes() == scored(running, ids, pb.LOGITS_MODE_FULL)[0]
    alone = infer(running, "prompt_logits", texts=TEXTS[1])["prompt_logits"]
    assert alone[0].tobytes() == rows[1].tobytes()
    assert rows[0].tobytes() != rows[1].tobytes()


def test_the_largest_of_all_positions(running: Server) -> None:
    outputs = infer(running, "prompt_logits", "prompt_logits_ids", "logits_ids", top_k=K)
    assert outputs["prompt_logits"].shape == (2, len(TEXTS[0]), K)
    np.testing.assert_array_equal(outputs["prompt_logits_ids"][:, -1], outputs["logits_ids"])
    for values, own, ids in zip(
        outputs["prompt_logits"], outputs["prompt_logits_ids"], TEXTS, strict=True
    ):
        data, token_ids = scored(running, ids, pb.LOGITS_MODE_TOP_K)
        assert values[:-1].tobytes() == data
        assert own[:-1].ravel().tolist() == token_ids
