"""Damaged, incomplete and hostile checkpoints are refused by name; sharded ones load the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstream.model.errors import (
    CheckpointError,
    DuplicateTensorError,
    MissingTensorError,
    PickleRefusedError,
    TensorShapeError,
    UnsupportedModelError,
    UnusedTensorError,
)
from headstream.model.families.base import Model
from headstream.model.loading.checkpoint import Checkpoint
from headstream.model.loading.hf_config import read_config
from headstream.model.loading.load import load_model
from model_reference import PLAIN_KERNELS, run_packed

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def directory(make_checkpoint: Any) -> Path:
    path: Path
    path, _ = make_checkpoint("llama", **SIZES)
    return path


def load(directory: Path, **options: Any) -> Model:
    return load_model(directory, torch.float32, PLAIN_KERNELS, **options)


def edit(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_missing_tensor_is_named(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.pop(UP))
    with pytest.raises(MissingTensorError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(directory)


def test_misshapen_tensor_is_named_with_both_shapes(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.update({UP: torch.zeros(23, 16)}))
    with pytest.raises(TensorShapeError, match=r"up_proj.*wanted shape \(24, 16\).*\(23, 16\)"):
        load(directory)


def test_unused_tensor_is_named(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.update({"model.layers.2.extra": torch.zeros(1)}))
    with pytest.raises(UnusedTensorError, match=r"layers\.2\.extra"):
        load(directory)


def test_old_rotary_constants_are_no_reason_to_refuse(directory: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(directory, lambda tensors: tensors.update({name: torch.zeros(4)}))
    load(directory)


def test_integer_weights_are_refused(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.update({UP: torch.zeros(24, 16, dtype=torch.int8)}))
    with pytest.raises(UnsupportedModelError, match=r"up_proj.*I8"):
        load(directory)


def test_duplicate_in_one_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length].rstrip(), data[8 + length :]
    entry = json.dumps(json.loads(header)["model.norm.weight"])
    header = header[:-1] + f', "model.norm.weight": {entry}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    with pytest.raises(DuplicateTensorError, match=r"model\.norm\.weight.*twice"):
        load(directory)


def test_duplicate_under_two_prefixes(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.update({"norm.weight": torch.zeros(16)}))
    with pytest.raises(DuplicateTensorError, match=r"norm\.weight"):
        load(directory)


@pytest.fixture
def sharded(make_checkpoint: Any) -> tuple[Path, Any]:
    path, oracle = make_checkpoint("llama", **SIZES, max_shard_size="4KB")
    assert len(list(path.glob("*.safetensors"))) > 2
    return path, oracle


def test_duplicate_over_shards(sharded: tuple[Path, Any]) -> None:
    directory, _ = sharded
    for shard in sorted(directory.glob("*.safetensors"))[:2]:
        save_file(load_file(shard) | {"model.norm.weight": torch.ones(16)}, shard)
    with pytest.raises(DuplicateTensorError, match=r"norm\.weight.*-00001-of.*-00002-of"):
        load(directory)


def test_sharded_equals_single(sharded: tuple[Path, Any], tmp_path: Path) -> None:
    directory, oracle = sharded
    oracle.save_pretrained(tmp_path / "single")
    [one] = run_packed(load(tmp_path / "single"), [[4, 8, 15]])
    [many] = run_packed(load(directory), [[4, 8, 15]])
    assert torch.equal(one.logits, many.logits)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", 7])
def test_index_may_not_leave_the_directory(sharded: tuple[Path, Any], name: object) -> None:
    directory, _ = sharded
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        load(directory)


def test_index_naming_an_absent_shard(sharded: tuple[Path, Any]) -> None:
    directory, _ = sharded
    next(directory.glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of.*not there"):
        load(directory)


@pytest.mark.parametrize("content", ["[]", "{}", "not json", '{"weight_map": 3}'])
def test_malformed_index(sharded: tuple[Path, Any], content: str) -> None:
    directory, _ = sharded
    (directory / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="no index of shards"):
        load(directory)


def test_pickles_are_refused_unread(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"never opened")
    (directory / "pytorch_model.bin").chmod(0)
    with pytest.raises(PickleRefusedError, match=r"pytorch_model\.bin"):
        load(directory)


def test_no_weights_at_all(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        load(directory)


@pytest.mark.parametrize("size", [0, 5, 40, -10])
def test_truncated_file(directory: Path, size: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(directory)


@pytest.mark.parametrize("header", [b"[]", b"\xff{}", b'{"a": {}}', b'{"a": {"dtype": "F32"}}'])
def test_damaged_header(directory: Path, header: bytes) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="header"):
        Checkpoint(directory, torch.float32)


def test_unknown_architecture_is_named_with_the_known_ones(directory: Path) -> None:
    edit_config(directory, architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match=r"MambaForCausalLM.*known: GPT2LMHeadModel"):
        load(directory)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "relu2"}, "hidden_act"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dynamic",
        ),
    ],
)
def test_unsupported_feature_is_refused_by_its_key(
    directory: Path, changes: dict[str, Any], key: str
) -> None:
    edit_config(directory, **changes)
    with pytest.raises(UnsupportedModelError, match=key):
        load(directory)


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "attention_bias"])
def test_unsupported_gemma3_feature(make_checkpoint: Any, key: str) -> None:
    directory, _ = make_checkpoint("gemma3_text", **SIZES, num_key_value_heads=1, head_dim=8)
    edit_config(directory, **{key: 1.0 if key == "attn_logit_softcapping" else True})
    with pytest.raises(UnsupportedModelError, match=key):
        read_config(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": None},
        {"num_hidden_layers": "two"},
        {"num_hidden_layers": 10**9},
        {"hidden_size": 15},
        {"hidden_size": -16},
        {"head_dim": 10**9},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": -1},
        {"max_position_embeddings": 10**12},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": "four"}},
        {"eos_token_id": 10**30},
        {"eos_token_id": [[1]]},
    ],
)
def test_unusable_config(directory: Path, changes: dict[str, Any]) -> None:
    edit_config(directory, **changes)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(directory)


@pytest.mark.parametrize(
    "changes", [{"layer_types": ["full_attention"]}, {"query_pre_attn_scalar": -1}]
)
def test_unusable_gemma3_config(make_checkpoint: Any, changes: dict[str, Any]) -> None:
    directory, _ = make_checkpoint("gemma3_text", **SIZES, num_key_value_heads=1, head_dim=8)
    edit_config(directory, **changes)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(directory)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_config(tmp_path)


def test_tied_config_with_another_head_is_refused(directory: Path) -> None:
    edit_config(directory, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load(directory)


def test_tied_config_with_a_stored_copy(directory: Path) -> None:
    edit_config(directory, tie_word_embeddings=True)
    edit(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    load(directory)


def test_eos_ids_are_the_union_of_both_files(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
    assert read_config(directory).eos_ids == (2, 5)


def test_weights_are_cast_to_the_target_dtype(directory: Path) -> None:
    checkpoint = Checkpoint(directory, torch.bfloat16)
    assert checkpoint.take("norm.weight", (16,)).dtype == torch.bfloat16
