"""`headstream embed FILE -o OUTPUT` against the real server, also when it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstream.client import Client, TextEmbedding
from server_process import Server, running_server, save_tiny_model

COMMAND = [sys.executable, "-m", "headstream.server.cli", "embed"]


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    with running_server(tiny_model, "--dtype", "float32") as server:
        yield server


def embed(running: Server, source: Path, output: Path, *flags: str) -> Any:
    command = [*COMMAND, str(source), "-o", str(output), "-a", running.address, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_are_the_vectors_of_the_lines(running: Server, tmp_path: Path) -> None:
    lines = [f"{'fish ' * (i % 7)}{i}" for i in range(200)]
    done = embed(running, write(tmp_path / "a.txt", lines), tmp_path / "a.npy", "--pooling", "last")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("a.npy: 200 lines\n")
    rows = np.load(tmp_path / "a.npy")
    with Client(running.address) as client:
        expected = [client.embed(lines[at : at + 50], pooling="last") for at in range(0, 200, 50)]
    assert np.array_equal(rows, np.concatenate(expected))
    assert files(tmp_path) == ["a.npy", "a.txt"]


def bad_lines(path: Path) -> Path:
    path.write_bytes(b"one\n\nthree\r\n\xff\xfe\nfive")
    return path


def test_lines_without_a_vector_are_told(running: Server, tmp_path: Path) -> None:
    done = embed(running, bad_lines(tmp_path / "a.txt"), tmp_path / "a.npy")
    assert done.returncode == 1
    assert "2 of them have no vector" in done.stderr
    rows = np.load(tmp_path / "a.npy")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, False]
    with Client(running.address) as client:
        assert np.array_equal(rows[[0, 2, 4]], client.embed(["one", "three", "five"]))
    errors = (tmp_path / "a.npy.errors.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in errors]
    assert [(each["line"], each["reason"]) for each in found] == [
        (1, "INVALID_FIELD"),
        (3, "INVALID_ITEM"),
    ]


def test_parquet(running: Server, tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    done = embed(running, bad_lines(tmp_path / "a.txt"), tmp_path / "a.parquet")
    assert done.returncode == 1, done.stderr
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert table["line"] == [0, 1, 2, 3, 4]
    assert [error is None for error in table["error"]] == [True, False, True, False, True]
    with Client(running.address) as client:
        expected = client.embed(["one", "three", "five"])
    assert table["vector"][1] is table["vector"][3] is None
    rows = np.array([table["vector"][i] for i in (0, 2, 4)], np.float32)
    assert np.array_equal(rows, expected)


def test_lines_that_were_cut_are_counted(running: Server, tmp_path: Path) -> None:
    """Also those of a run that goes on, which one of a full part file does with nothing to do."""
    lines = ["fish", "fish " * 3000, "", "hen " * 3000]
    source, output = write(tmp_path / "a.txt", lines), tmp_path / "a.npy"
    (tmp_path / "a.npy.rows").mkdir()  # it cannot be written in the end: the part file stays
    assert embed(running, source, output, "--truncate").returncode == 1
    assert (tmp_path / "a.npy.part").exists()
    (tmp_path / "a.npy.rows").rmdir()
    done = embed(running, source, output, "--truncate")
    assert "going on: 4 of 4 lines" in done.stderr
    assert "2 of them were too long and were cut\n" in done.stderr
    with Client(running.address) as client:
        expected = client.embed_each([lines[1], lines[3]], truncate=True)
        rows = np.load(output)
        for row, each in zip(rows[[1, 3]], expected, strict=True):
            assert isinstance(each, TextEmbedding)
            assert np.array_equal(row, each.vectors)
        answers = {answer[0]: answer for answer in client.embed_stream(lines, truncate=True)}
        assert [answers[i].truncated for i in range(4)] == [False, True, False, True]
        result = answers[1].result
        assert isinstance(result, TextEmbedding)
        assert result.num_tokens == client.model().limits.max_model_tokens


def killed(running: Server, source: Path, output: Path) -> None:
    """A run that is killed when its part file has grown."""
    command = [*COMMAND, str(source), "-o", str(output), "-a", running.address]
    process = subprocess.Popen(command)
    part = output.with_name(output.name + ".part")
    try:
        before = part.stat().st_size if part.exists() else 0
        while not part.exists() or part.stat().st_size < before + 50_000:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_run_that_was_killed_goes_on(running: Server, tmp_path: Path, kind: str) -> None:
    lines = ["" if i % 500 == 7 else f"{'fish ' * (i % 7)}{i}" for i in range(6000)]
    source = write(tmp_path / "a.txt", lines)
    start = running.metrics().get(("input_tokens_total", "tiny"), 0)
    whole = embed(running, source, tmp_path / f"whole.{kind}")
    all_tokens = running.metrics()["input_tokens_total", "tiny"] - start
    output = tmp_path / f"cut.{kind}"
    killed(running, source, output)
    killed(running, source, output)
    before = running.metrics()["input_tokens_total", "tiny"]
    done = embed(running, source, output)
    assert (whole.returncode, done.returncode) == (1, 1), done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("going on: "))
    num_done = int(said.split()[2])
    assert 0 < num_done < 6000
    assert output.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    errors = [(tmp_path / f"{each}.{kind}.errors.jsonl").read_text() for each in ("cut", "whole")]
    assert errors[0] == errors[1]
    assert not (tmp_path / f"cut.{kind}.part").exists()
    tokens = running.metrics()["input_tokens_total", "tiny"] - before
    assert 0 < tokens < all_tokens * (1 - 0.5 * num_done / 6000), "what is done is not done again"


@pytest.fixture
def cut(running: Server, tmp_path: Path) -> Path:
    """A folder with a run that was cut."""
    source = write(tmp_path / "a.txt", [f"fish {i}" for i in range(3000)])
    killed(running, source, tmp_path / "a.npy")
    return tmp_path


def test_another_run_does_not_go_on_with_it(running: Server, cut: Path) -> None:
    before = (cut / "a.npy.part").read_bytes()
    other = embed(running, cut / "a.txt", cut / "a.npy", "--pooling", "last")
    assert other.returncode == 1
    assert "belongs to a run that was not finished and differs in options:" in other.stderr
    with running_server(save_tiny_model(cut / "model"), "--dtype", "bfloat16") as different:
        other = embed(different, cut / "a.txt", cut / "a.npy")
    assert "differs in fingerprint:" in other.stderr
    write(cut / "a.txt", [f"hen {i}" for i in range(3000)])
    other = embed(running, cut / "a.txt", cut / "a.npy")
    assert "differs in lines of:" in other.stderr
    assert (cut / "a.npy.part").read_bytes() == before
    assert not (cut / "a.npy").exists()


def test_a_broken_record_at_the_end_is_cut_off(running: Server, cut: Path) -> None:
    part = cut / "a.npy.part"
    part.write_bytes(part.read_bytes()[:-5])
    assert embed(running, cut / "a.txt", cut / "a.npy").returncode == 0
    rows = np.load(cut / "a.npy")
    with Client(running.address) as client:
        expected = client.embed([f"fish {i}" for i in range(2950, 3000)])
    assert np.array_equal(rows[2950:], expected)
    assert not np.isnan(rows).any()


@pytest.mark.parametrize(
    "wrong",
    [["--dimensions", "5000"], ["--layer", "99"], ["--prompt-name", "none"], ["--dtype", "int8"]],
)
def test_a_mistake_is_told_and_can_be_mended(
    running: Server, tmp_path: Path, wrong: list[str]
) -> None:
    source, output = write(tmp_path / "a.txt", ["one", "two"]), tmp_path / "a.npy"
    done = embed(running, source, output, *wrong)
    assert done.returncode == 1
    assert wrong[0][2:].replace("-", "_") in done.stderr
    assert "goes on" not in done.stderr
    assert files(tmp_path) == ["a.txt"]
    assert embed(running, source, output).returncode == 0


def test_lines_of_which_none_has_a_vector_leave_nothing(running: Server, tmp_path: Path) -> None:
    source, output = write(tmp_path / "a.txt", ["fish " * 3000] * 2), tmp_path / "a.npy"
    done = embed(running, source, output)
    assert done.returncode == 1
    assert "no line could be embedded" in done.stderr
    assert files(tmp_path) == ["a.txt"]
    assert embed(running, source, output, "--truncate").returncode == 0


def test_a_part_without_a_line_done_is_begun_anew(running: Server, tmp_path: Path) -> None:
    """A run that was killed before its first answer binds nobody."""
    source, output = write(tmp_path / "a.txt", ["one"]), tmp_path / "a.npy"
    (tmp_path / "a.npy.part").write_text('{"lines of": "others"}\n')
    assert embed(running, source, output).returncode == 0
    assert files(tmp_path) == ["a.npy", "a.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.txt", "written as .npy or .parquet"), ("a.parquet", "parquet needs pyarrow: pip install")],
)
def test_what_could_not_be_written_is_refused_before_any_work(
    running: Server, tmp_path: Path, name: str, message: str
) -> None:
    code = "import sys; sys.modules['pyarrow'] = None\n"
    code += "from headstream.server.cli.app import app; app()"
    source = write(tmp_path / "source", ["a"])
    command = [sys.executable, "-c", code, "embed", str(source), "-o", str(tmp_path / name)]
    command += ["-a", running.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert files(tmp_path) == ["source"]


def test_a_text_that_is_no_file_is_a_text(running: Server, tmp_path: Path) -> None:
    command = [*COMMAND, "no such file", "-o", str(tmp_path / "a.npy"), "-a", running.address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no such file" in done.stdout
    assert np.load(tmp_path / "a.npy").shape[0] == 1
