"""What each rank has of a model: nothing twice, nothing forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headstream.model.config import ModelConfig
from headstream.model.errors import UnsupportedModelError
from headstream.model.loading.checkpoint import Checkpoint
from headstream.model.loading.hf_config import read_config
from headstream.model.parallel.split import Split, check_split, split_config
from headstream.model.parallel.weights import SplitWeights

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "attention_bias": True,
    "mlp_bias": True,
}
LAYER = "layers.0"


def test_parts_lie_side_by_side() -> None:
    assert Split(0, 3).parts(8) == [range(2), range(2, 5), range(5, 8)]
    assert Split(2, 3).part(8) == range(5, 8)


def test_ranks_share_key_value_heads_where_there_are_fewer() -> None:
    """Query heads 0 and 1 look at key head 0, 2 and 3 at 1; one rank has one query head."""
    assert [Split(rank, 4).kv_heads(2) for rank in range(4)] == [
        range(1),
        range(1),
        range(1, 2),
        range(1, 2),
    ]
    assert [Split(rank, 2).kv_heads(4) for rank in range(2)] == [range(2), range(2, 4)]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 3),
        ({"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}, 2),
        ({"intermediate_size": 50}, 4),
    ],
)
def test_a_model_that_cannot_be_shared_so_is_refused(
    make_checkpoint: Any, changes: dict[str, Any], size: int
) -> None:
    config = read_config(make_checkpoint("llama", **SIZES | changes)[0])
    with pytest.raises(UnsupportedModelError, match=f"tensor_parallel is {size}, but it must"):
        check_split(config, size)
    check_split(config, 1)


def test_a_family_without_a_cut_is_refused(make_checkpoint: Any) -> None:
    config = read_config(make_checkpoint("gpt2", n_embd=32, n_layer=1, n_head=4)[0])
    with pytest.raises(UnsupportedModelError, match=r"family 'gpt2' cannot be split \(those of"):
        check_split(config, 2)


def taken(
    checkpoint: Checkpoint, config: ModelConfig, size: int, name: str, shape: tuple[int, ...]
) -> list[Tensor]:
    return [
        SplitWeights(checkpoint, config, Split(rank, size)).take(name, shape)
        for rank in range(size)
    ]


@pytest.mark.parametrize(
    ("name", "part", "axis"),
    [
        ("self_attn.q_proj.weight", (16, 32), 0),
        ("self_attn.k_proj.bias", (8,), 0),
        ("self_attn.o_proj.weight", (32, 16), 1),
        ("mlp.gate_proj.weight", (24, 32), 0),
        ("mlp.down_proj.weight", (32, 24), 1),
    ],
)
def test_the_parts_are_the_whole(
    make_checkpoint: Any, name: str, part: tuple[int, ...], axis: int
) -> None:
    directory, oracle = make_checkpoint("llama", **SIZES)
    checkpoint, config = Checkpoint(directory, torch.float32), read_config(directory)
    parts = taken(checkpoint, config, 2, f"{LAYER}.{name}", part)
    assert [tuple(each.shape) for each in parts] == [part, part]
    assert torch.equal(torch.cat(parts, axis), oracle.state_dict()[f"model.{LAYER}.{name}"])


def test_the_vocabulary_is_split_whatever_its_size(make_checkpoint: Any) -> None:
    directory, oracle = make_checkpoint("llama", **SIZES)
    checkpoint, config = Checkpoint(directory, torch.float32), read_config(directory)
    for name in ("embed_tokens.weight", "lm_head.weight"):
        parts = taken(checkpoint, config, 2, name, (97, 32))
        assert [len(part) for part in parts] == [48, 49]
        whole = oracle.state_dict()[name if name.startswith("lm") else f"model.{name}"]
        assert torch.equal(torch.cat(parts), whole)


def test_a_bias_behind_a_sum_is_added_once(make_checkpoint: Any) -> None:
    directory, oracle = make_checkpoint("llama", **SIZES)
    checkpoint, config = Checkpoint(directory, torch.float32), read_config(directory)
    first, second = taken(checkpoint, config, 2, f"{LAYER}.mlp.down_proj.bias", (32,))
    assert torch.equal(first, oracle.state_dict()[f"model.{LAYER}.mlp.down_proj.bias"])
    assert not second.any()


def test_sizes_of_a_part(make_checkpoint: Any) -> None:
    config = read_config(make_checkpoint("llama", **SIZES)[0])
    own = split_config(config, Split(1, 4))
    assert (own.n_heads, own.n_kv_heads, own.d_mlp) == (1, 1, 12)
    assert (own.d_model, own.d_vocab, own.d_head) == (32, 97, 8)
    assert {(spec.n_heads, spec.n_kv_heads) for spec in own.attention} == {(1, 1)}
