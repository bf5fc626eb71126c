"""Kernels are compiled once, kept, and replaced by torch wherever they cannot be."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_reference import Bench, attention_spec, exact_attention, model_config, random_text
from headstream.model import kernels
from headstream.model.attention.sdpa import SdpaAttention
from headstream.model.kernels import TORCH_KERNELS, build, load_kernels
from headstream.model.kernels.build import KernelUnavailableError
from headstream.model.kv_cache import KVCache

PROBE = '#include "answer.h"\nextern "C" int probe() { return ANSWER; }\n'


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The compiler's runs that produce something, as they happen."""
    runs: list[Sequence[str]] = []
    run = subprocess.run

    def spy(command: Sequence[str], **options: Any) -> Any:
        if "-o" in command:
            runs.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    return runs


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the source of one tiny kernel, in the place of the real ones."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler on the PATH")
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "probe.cpp").write_text(PROBE)
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    monkeypatch.setattr(build, "_SOURCES", folder)
    return folder


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_a_kernel_is_compiled_once(
    sources: Path, tmp_path: Path, compiled: list[Sequence[str]]
) -> None:
    cache = tmp_path / "not" / "yet" / "there"
    assert build.load("probe", cache).probe() == 42
    [kept] = cache.iterdir()  # and nothing left beside it
    assert len(compiled) == 2  # compile, link
    before = kept.stat().st_mtime_ns
    assert build.load("probe", cache).probe() == 42
    assert len(compiled) == 2
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("changed", ["probe.cpp", "answer.h", "flags", "processor"])
def test_what_the_code_depends_on_is_compiled_anew(
    changed: str,
    sources: Path,
    tmp_path: Path,
    compiled: list[Sequence[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build.load("probe", tmp_path / "cache")
    if changed == "flags":
        monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-DMORE"))
    elif changed == "processor":
        monkeypatch.setattr(build, "_processor", lambda: "another")
    else:
        text = (sources / changed).read_text()
        (sources / changed).write_text(text.replace("ANSWER;", "ANSWER + 1;").replace("42", "43"))
    answer = build.load("probe", tmp_path / "cache").probe()
    assert answer == (43 if changed in {"probe.cpp", "answer.h"} else 42)
    assert len(compiled) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the older one stays for who uses it


def test_a_broken_source_says_what_the_compiler_said(sources: Path, tmp_path: Path) -> None:
    (sources / "probe.cpp").write_text("int probe() { return nowhere; }")
    with pytest.raises(KernelUnavailableError, match=r"probe\.cpp.*nowhere"):
        build.load("probe", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unknown_symbol_is_an_unavailable_kernel(sources: Path, tmp_path: Path) -> None:
    """As when a compiler brings an OpenMP runtime that torch has not loaded."""
    (sources / "probe.cpp").write_text('extern "C" { int gone(); int probe() { return gone(); } }')
    with pytest.raises(KernelUnavailableError, match="gone"):
        build.load("probe", tmp_path / "cache")


def test_no_compiler(no_compiler: None, tmp_path: Path) -> None:
    with pytest.raises(KernelUnavailableError, match="no C\\+\\+ compiler"):
        build.load("attend", tmp_path / "cache")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    with pytest.raises(KernelUnavailableError, match="out of order"):
        build.load("attend", tmp_path / "cache")


def test_a_compiler_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_bytes(b"\x7fELF of another machine")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    with pytest.raises(KernelUnavailableError):
        build.load("attend", tmp_path / "cache")


def test_a_cache_that_cannot_be_written(sources: Path, tmp_path: Path) -> None:
    """A container with a read-only disk starts all the same, on torch."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(KernelUnavailableError):
        build.load("probe", tmp_path / "cache")


def test_a_library_that_does_not_load(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment")  # what a noexec mount answers

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(KernelUnavailableError, match="failed to map"):
        build.load("probe", tmp_path / "cache")


def test_real_sources_compile_without_a_word(tmp_path: Path) -> None:
    """No warning, so that a real one is seen."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on the PATH")
    for source in build._SOURCES.glob("*.cpp"):
        command = [compiler, *build._FLAGS, "-Wall", "-Wextra", "-fsyntax-only", str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def test_without_a_compiler_all_runs_on_torch(
    no_compiler: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = load_kernels(tmp_path / "cache")
    assert found is TORCH_KERNELS
    assert "no C++ compiler" in caplog.text
    assert found.name == "torch"
    spec = attention_spec(4, 2, 16)
    cache = KVCache(model_config(spec), 8, 16, torch.float32, torch.device("cpu"))
    bench = Bench(cache, SdpaAttention((spec,), cache))
    text = random_text(spec, 30, torch.float32, prompt=20)
    bench.place(text)
    [z] = bench.step([(text, 0, 30)])
    torch.testing.assert_close(z.double(), exact_attention(spec, text), atol=1e-5, rtol=1e-5)


def test_one_missing_kernel_leaves_out_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint names one set of kernels, so there is no half of a set."""

    def refuse(_: Path) -> None:
        raise KernelUnavailableError("not today")

    monkeypatch.setattr(kernels.attend, "load_native", refuse)
    assert load_kernels(tmp_path) is TORCH_KERNELS
