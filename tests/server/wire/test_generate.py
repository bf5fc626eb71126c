from __future__ import annotations

from typing import Any

import pytest

import front_values
from headstream.server.errors import InvalidRequest, ReplyTooLarge
from headstream.server.wire.generate import parse_generate
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

LIMITS = front_values.make_limits(
    d_vocab=400, max_text_bytes=20, max_new_tokens=10, max_top_k=5, max_reply_bytes=20_000
)
V, D = LIMITS.d_vocab, LIMITS.d_model
FULL = pb.LOGITS_MODE_FULL


def generate(**fields: Any) -> Any:
    fields.setdefault("prompt", types_pb2.Input(text="hi"))
    return parse_generate(pb.GenerateRequest(**fields), LIMITS)


def sampling(**fields: Any) -> Any:
    return generate(sampling=pb.SamplingParams(**fields))


def test_a_prompt_must_be_there() -> None:
    with pytest.raises(InvalidRequest, match="prompt: set text, token_ids or chat"):
        parse_generate(pb.GenerateRequest(), LIMITS)


def test_each_continuation_has_a_seed_with_which_it_comes_alone() -> None:
    """The first is the seed itself; no two seeds that users count up give a common one."""
    assert sampling(seed=7).seeds == sampling(seed=7, n=1).seeds == (7,)
    several = sampling(seed=7, n=16).seeds
    assert several[0] == 7
    assert several[:3] == sampling(seed=7, n=3).seeds
    assert all(0 <= seed < 2**64 for seed in several)
    seeds = [seed for first in range(100) for seed in sampling(seed=first, n=16).seeds]
    assert len(set(seeds)) == 1600
    assert sampling(seed=2**64 - 1, n=2).seeds[0] == 2**64 - 1


@pytest.mark.parametrize("n", [0, 17, 2**32 - 1])
def test_a_wrong_number_of_continuations_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"sampling\.n: {n} is not in \[1, 16\]"):
        sampling(n=n)


def test_tokens_generated_before_are_fewer_than_all_and_known() -> None:
    stop = pb.StopConditions(max_new_tokens=3)
    assert generate(generated_token_ids=[5, 399], stop=stop).generated_ids == (5, 399)
    with pytest.raises(InvalidRequest, match=r"generated_token_ids: has 3 entries; .* 0 to 2"):
        generate(generated_token_ids=[5, 5, 5], stop=stop)
    with pytest.raises(InvalidRequest, match=r"has 10 entries; allowed are 0 to 9"):
        generate(generated_token_ids=[5] * 10)
    with pytest.raises(InvalidRequest, match=r"generated_token_ids\[1\]: 400 is not in \[0, 400\)"):
        generate(generated_token_ids=[5, 400], stop=stop)
    with pytest.raises(InvalidRequest, match="generated_token_ids: goes with n = 1 alone"):
        generate(generated_token_ids=[5], sampling=pb.SamplingParams(n=2))


def test_the_budget_of_the_rest_is_smaller() -> None:
    row = V * 4
    fields: dict[str, Any] = {
        "stop": pb.StopConditions(max_new_tokens=4),
        "logits": pb.LogitsOptions(mode=FULL),
        "max_reply_bytes": 2 * row,
    }
    generate(generated_token_ids=[5, 5], **fields)
    with pytest.raises(ReplyTooLarge):
        generate(generated_token_ids=[5], **fields)


def test_the_reply_budget_counts_every_tensor() -> None:
    row = V * 4
    call = generate(
        stop=pb.StopConditions(max_new_tokens=10),
        logits=pb.LogitsOptions(mode=FULL),
        embeddings=pb.GeneratedEmbeddings(layers=types_pb2.LayerSelection(layers=[0, -1])),
    )
    assert call.token_bytes == row + 2 * D * 4

    def asked(max_reply_bytes: int) -> Any:
        return generate(
            stop=pb.StopConditions(max_new_tokens=2),
            logits=pb.LogitsOptions(mode=FULL),
            max_reply_bytes=max_reply_bytes,
        )

    asked(2 * row)
    with pytest.raises(ReplyTooLarge, match=f"{4 * row} bytes"):
        generate(
            stop=pb.StopConditions(max_new_tokens=2),
            logits=pb.LogitsOptions(mode=FULL),
            sampling=pb.SamplingParams(n=2),
            max_reply_bytes=4 * row - 1,
        )
    with pytest.raises(ReplyTooLarge, match=f"{2 * row} bytes; the limit is {2 * row - 1}"):
        asked(2 * row - 1)
    with pytest.raises(ReplyTooLarge, match="limit is 20000"):
        parse_generate(
            pb.GenerateRequest(
                prompt=types_pb2.Input(text="hi"),
                stop=pb.StopConditions(max_new_tokens=10),
                logits=pb.LogitsOptions(mode=FULL),
            ),
            front_values.make_limits(d_vocab=501, max_new_tokens=10, max_reply_bytes=20_000),
        )


def test_defaults() -> None:
    call = generate()
    assert call.stop.max_new_tokens == 10
    assert call.stop.may_clip
    assert call.outputs.logprob
    assert call.sampling.greedy
    assert call.sampling.plain
    assert call.sampling.seed != generate().sampling.seed
    assert sampling(seed=7).sampling.seed == 7
    assert generate(logits=pb.LogitsOptions(mode=pb.LOGITS_MODE_TOP_K)).outputs.logits.top_k == 5
