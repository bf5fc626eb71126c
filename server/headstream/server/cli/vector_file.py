# ruff: noqa: PLC0415 - numpy is loaded when a file is written, so that `--help` is quick
"""Files of vectors, one for each line of a text file: .npy and .parquet."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headstream.server.cli.part_file import PartFile

ROW_GROUP = 16_384


def check_output(output: Path) -> None:
    """Refuse, before any work, a file that could not be written in the end.

    Raises:
        ValueError: Its name says neither .npy nor .parquet, or pyarrow is missing.
    """
    if output.suffix not in {".npy", ".parquet"}:
        raise ValueError(f"{output}: vectors of a file are written as .npy or .parquet")
    if output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{output}: parquet needs pyarrow: pip install 'headstream[parquet]'")


def write_vectors(part: PartFile, output: Path) -> None:
    """Write what a finished run has found, all at once, and delete its part file.

    .npy: [lines, d]; a line without a vector is NaN, or 0 where the type has none. .parquet: the
    columns `line` (from 0), `vector` (null where there is none) and `error`. What was wrong with
    lines is also in a file of its own, `<output>.errors.jsonl`.

    Raises:
        ValueError: No line has a vector.
    """
    if part.format is None:
        message = "no line could be embedded; the first: " + _first_error(part)
        part.path.unlink()  # going on with it would find the same
        raise ValueError(message)
    errors = part.errors()
    rows_path = output.with_name(output.name + ".rows")
    rows = _gather(part, rows_path)
    if output.suffix == ".npy":
        rows_path.replace(output)
    else:
        whole = output.with_name(output.name + ".whole")
        _write_parquet(rows, errors, whole)
        whole.replace(output)
        rows_path.unlink()
    _write_errors(errors, output.with_name(output.name + ".errors.jsonl"))
    part.path.unlink()


def _gather(part: PartFile, path: Path) -> NDArray[Any]:
    """The vectors in the order of lines, in a file: [lines, d]."""
    import numpy as np

    assert part.format is not None
    dtype, shape = np.dtype(part.format[0]), part.format[1]
    rows: NDArray[Any] = np.lib.format.open_memmap(
        path, mode="w+", dtype=dtype, shape=(len(part.done), *shape)
    )
    for line in part.errors():
        rows[line] = np.nan if dtype.kind == "f" else 0
    for line, data in part.vectors():
        rows[line] = np.frombuffer(data, dtype).reshape(shape)
    rows.flush()  # type: ignore[attr-defined]  # it is a memmap
    return rows


def _write_parquet(rows: NDArray[Any], errors: dict[int, tuple[str, str]], path: Path) -> None:
    pa: Any = importlib.import_module("pyarrow")  # Any: it has no types
    pq: Any = importlib.import_module("pyarrow.parquet")
    width = rows.shape[1]
    schema = pa.schema(
        [
            ("line", pa.int64()),
            ("vector", pa.list_(pa.from_numpy_dtype(rows.dtype), width)),
            ("error", pa.string()),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            lines = range(start, min(start + ROW_GROUP, len(rows)))
            values = pa.array(rows[start : lines.stop].reshape(-1))
            missing = pa.array([line in errors for line in lines])
            vectors = pa.FixedSizeListArray.from_arrays(values, width, mask=missing)
            messages = [errors[line][1] if line in errors else None for line in lines]
            columns = [pa.array(lines, pa.int64()), vectors, pa.array(messages, pa.string())]
            writer.write_table(pa.table(columns, schema=schema))


def _write_errors(errors: dict[int, tuple[str, str]], path: Path) -> None:
    path.unlink(missing_ok=True)
    if errors:
        with path.open("w", encoding="utf-8") as file:
            for line, (reason, message) in errors.items():
                entry = {"line": line, "reason": reason, "message": message}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _first_error(part: PartFile) -> str:
    return next((message for _, message in part.errors().values()), "it has no lines")
