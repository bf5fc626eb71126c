"""What a stream tells with each token: that token, and nothing that was told before."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2

CHOSEN = range(200)
SPARE_BYTES = 32  # the text of a token, and numbers that have more digits


def step_sizes(address: str, prompt_tokens: int, logits: pb.LogitsOptions) -> list[int]:
    """Bytes of the message of each token."""
    ids = [40 + index % 300 for index in range(prompt_tokens)]
    request = pb.GenerateRequest(
        prompt=types_pb2.Input(token_ids=types_pb2.TokenIds(ids=ids)),
        stop=pb.StopConditions(max_new_tokens=40, ignore_eos=True),
        logits=logits,
    )
    with grpc.insecure_channel(address) as channel:
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
        replies = list(stub.Generate(request, timeout=120))
    sizes = [reply.ByteSize() for reply in replies if reply.HasField("step")]
    assert len(sizes) == 40
    return sizes


@pytest.mark.parametrize(
    "logits",
    [
        pb.LogitsOptions(),
        pb.LogitsOptions(mode=pb.LOGITS_MODE_CHOSEN, token_ids=CHOSEN),
    ],
    ids=["none", "chosen"],
)
def test_a_token_costs_as_much_at_any_length(server: str, logits: pb.LogitsOptions) -> None:
    """Behind any prompt, as the first or as the fortieth, with logits of any tokens."""
    sizes = step_sizes(server, 3, logits) + step_sizes(server, 900, logits)
    assert max(sizes) - min(sizes) <= SPARE_BYTES
    assert max(sizes) <= 4 * len(logits.token_ids) + 64 + SPARE_BYTES


def test_ids_that_are_told_show(server: str) -> None:
    """Negative control: those of TOP_K, which differ from token to token."""
    chosen = pb.LogitsOptions(mode=pb.LOGITS_MODE_CHOSEN, token_ids=CHOSEN)
    top = pb.LogitsOptions(mode=pb.LOGITS_MODE_TOP_K, top_k=len(CHOSEN))
    more = min(step_sizes(server, 3, top)) - max(step_sizes(server, 3, chosen))
    assert more > len(CHOSEN) - SPARE_BYTES
