"""GGUF files written with the gguf package, read back through the conversion cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from headstream.model.errors import CheckpointError, UnsupportedModelError, UnusedTensorError
from headstream.model.loading.cache import build_once
from headstream.model.loading.gguf import converted
from headstream.model.loading.gguf_config import config_from_metadata
from headstream.model.loading.load import load_model
from model_reference import PLAIN_KERNELS, run_packed

SIZES: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 300}
LLAMA = SIZES | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "n_inner": 64}
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
IDS = [1, 20, 299, 31, 7, 7]


def write_gguf(path: Path, arch: str, oracle: Any, *, extra: tuple[str, ...] = ()) -> None:
    """What llama.cpp's converter does: its names, its row order for q and k, a byte tokenizer."""
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    hf = oracle.config
    writer.add_context_length(hf.max_position_embeddings)
    writer.add_embedding_length(hf.hidden_size)
    writer.add_block_count(hf.num_hidden_layers)
    writer.add_feed_forward_length(hf.n_inner if arch == "gpt2" else hf.intermediate_size)
    writer.add_head_count(hf.num_attention_heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(hf.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(hf.num_key_value_heads)
        writer.add_layer_norm_rms_eps(hf.rms_norm_eps)
        writer.add_rope_dimension_count(hf.head_dim)
        writer.add_rope_freq_base(hf.rope_parameters["rope_theta"])
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], hf.num_hidden_layers)
    for name, tensor in oracle.state_dict().items():
        if name == "lm_head.weight" and hf.tie_word_embeddings:
            continue
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert ours is not None
        writer.add_tensor(ours, _stored(ours, tensor, hf).contiguous().numpy())
    for name in extra:
        writer.add_tensor(name, torch.zeros(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(name: str, tensor: torch.Tensor, hf: Any) -> torch.Tensor:
    if hf.model_type == "gpt2":
        return tensor.T if name.endswith(TRANSPOSED) else tensor
    heads = {"attn_q.weight": hf.num_attention_heads, "attn_k.weight": hf.num_key_value_heads}
    for suffix, n in heads.items():
        if name.endswith(suffix):  # halves of a head to interleaved pairs
            tensor = tensor.view(n, 2, -1, hf.hidden_size).transpose(1, 2).flatten(0, 2)
    return tensor


def _add_tokenizer(writer: Any) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<unk>", "<s>", "</s>", *bytes_to_unicode().values(), "ab"]
    tokens += [f"<extra{i}>" for i in range(SIZES["vocab_size"] - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


@pytest.mark.parametrize(("arch", "sizes"), [("llama", LLAMA), ("gpt2", GPT2)])
def test_converted_file_computes_the_model(
    arch: str, sizes: dict[str, Any], make_checkpoint: Any, tmp_path: Path
) -> None:
    _, oracle = make_checkpoint(arch, **sizes)
    write_gguf(tmp_path / "tiny.gguf", arch, oracle)
    directory = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    [run] = run_packed(load_model(directory, torch.float32, PLAIN_KERNELS), [IDS])
    with torch.inference_mode():
        wanted = oracle(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(run.logits, wanted, atol=1e-5, rtol=1e-5)


def test_converted_file_equals_transformers_own_reading(
    make_checkpoint: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, oracle = make_checkpoint("llama", **LLAMA)
    write_gguf(tmp_path / "tiny.gguf", "llama", oracle)
    directory = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    auto: Any = AutoModelForCausalLM
    theirs = auto.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    [run] = run_packed(load_model(directory, torch.float32, PLAIN_KERNELS), [IDS])
    with torch.inference_mode():
        wanted = theirs(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(run.logits, wanted, atol=1e-5, rtol=1e-5)
    tokenizer: Any = AutoTokenizer
    text = tokenizer.from_pretrained(directory)("cab", add_special_tokens=False)["input_ids"]
    assert tokenizer.from_pretrained(directory).decode(text) == "cab"


def test_second_use_converts_nothing(make_checkpoint: Any, tmp_path: Path) -> None:
    _, oracle = make_checkpoint("llama", **LLAMA)
    write_gguf(tmp_path / "tiny.gguf", "llama", oracle)
    stages: list[str] = []
    first = converted(tmp_path / "tiny.gguf", tmp_path / "cache", lambda s, *_: stages.append(s))
    assert set(stages) == {"checksum", "converting", "writing", "tokenizer"}
    stages.clear()
    assert (
        converted(tmp_path / "tiny.gguf", tmp_path / "cache", lambda s, *_: stages.append(s))
        == first
    )
    assert set(stages) == {"checksum"}
    stamp = json.loads((first / "headstream.json").read_text())
    assert stamp.keys() == {"source_sha256", "converter"}


def test_tensor_the_architecture_does_not_know(make_checkpoint: Any, tmp_path: Path) -> None:
    _, oracle = make_checkpoint("llama", **LLAMA)
    write_gguf(tmp_path / "tiny.gguf", "llama", oracle, extra=("rope_freqs.weight",))
    with pytest.raises(UnusedTensorError, match="rope_freqs"):
        converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache" / "gguf").glob("*tiny-*/"))


def test_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUFnothing more")
    with pytest.raises(CheckpointError, match=r"bad\.gguf"):
        converted(tmp_path / "bad.gguf", tmp_path / "cache")


def test_truncated_file(make_checkpoint: Any, tmp_path: Path) -> None:
    _, oracle = make_checkpoint("llama", **LLAMA)
    file = tmp_path / "tiny.gguf"
    write_gguf(file, "llama", oracle)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf"):
        converted(file, tmp_path / "cache")


METADATA = {
    "general.architecture": "gemma3",
    "gemma3.context_length": 64,
    "gemma3.embedding_length": 640,
    "gemma3.block_count": 2,
    "gemma3.feed_forward_length": 64,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.sliding_window": 512,
    "tokenizer.ggml.tokens": 300,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.eot_token_id": 106,
}


def test_metadata_becomes_a_config() -> None:
    config = config_from_metadata(METADATA, ["token_embd.weight"])
    assert config["model_type"] == "gemma3_text"
    assert config["head_dim"] == 256
    assert config["vocab_size"] == 300
    assert config["tie_word_embeddings"] is True
    assert config["eos_token_id"] == [1, 106]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gemma3.rope.scaling.type", "linear"),
        ("gemma3.attention.key_length", 128),
        ("gemma3.expert_count", 8),
        ("gemma3.block_count", None),
        ("general.architecture", "mamba"),
    ],
)
def test_metadata_that_is_not_understood_is_refused(key: str, value: object) -> None:
    metadata = {k: v for k, v in (METADATA | {key: value}).items() if v is not None}
    with pytest.raises(UnsupportedModelError, match=key if value != "mamba" else "mamba"):
        config_from_metadata(metadata, [])


def test_failed_build_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def fail(building: Path) -> None:
        (building / "half").touch()
        raise CheckpointError("broken")

    target, stamp = tmp_path / "made", {"version": "1"}
    with pytest.raises(CheckpointError):
        build_once(target, stamp, fail)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".made.lock"])
    build_once(target, stamp, lambda building: (building / "whole").touch())
    assert (target / "whole").exists()


def test_stale_result_and_abandoned_attempt_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "made"
    build_once(target, {"version": "1"}, lambda building: (building / "old").touch())
    (tmp_path / ".made.building-killed").mkdir()
    build_once(target, {"version": "2"}, lambda building: (building / "new").touch())
    assert {path.name for path in target.iterdir()} == {"new", "headstream.json"}
    assert not list(tmp_path.glob(".made.building-*"))


def test_concurrent_starters_build_once(tmp_path: Path) -> None:
    import threading
    import time

    built: list[Path] = []

    def build(building: Path) -> None:
        built.append(building)
        time.sleep(0.05)

    threads = [
        threading.Thread(target=build_once, args=(tmp_path / "made", {"version": "1"}, build))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
