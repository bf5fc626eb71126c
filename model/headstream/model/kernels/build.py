"""Compile a kernel source into a shared library, once per source, compiler and processor."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC"),
    # What vectorising exp and max needs. Infinities keep their meaning: no -ffinite-math-only.
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
)
_SOURCES = Path(__file__).parent


class KernelUnavailableError(Exception):
    """The kernel cannot be built or loaded here; the message says why."""


def load(name: str, cache_dir: Path) -> ctypes.CDLL:
    """The library of ``<name>.cpp``, from ``cache_dir`` or freshly compiled into it.

    Raises:
        KernelUnavailableError: no compiler, or compiling, keeping or loading failed.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelUnavailableError("no C++ compiler (g++ or clang++) on the PATH")
    source = _SOURCES / f"{name}.cpp"
    try:
        library = cache_dir / f"{name}-{_fingerprint(source, compiler)}.so"
        if not library.exists():
            _compile(compiler, source, library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        # A compiler that does not start, a read-only or full disk, a library that does not load.
        raise KernelUnavailableError(f"{source.name}: {error}") from error


def _fingerprint(source: Path, compiler: str) -> str:
    """What the compiled code depends on: its text, the compiler, the flags and the processor."""
    version = subprocess.run(  # noqa: S603 - the compiler found on the PATH
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    texts = [path.read_text() for path in (source, *sorted(_SOURCES.glob("*.h")))]
    parts = (*texts, version, " ".join(_FLAGS), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's feature list: a cache on a shared disk may see several."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
        return "\n".join(sorted(set(features)))
    return platform.processor()


def _compile(compiler: str, source: Path, library: Path) -> None:
    """Compile beside the target and rename, so that a concurrent starter never loads half a file.

    The link step leaves the OpenMP runtime open: it resolves to the one torch has loaded, so both
    share one pool of threads instead of spinning against each other.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        compiled, linked = Path(scratch, "kernel.o"), Path(scratch, "kernel.so")
        for command in (
            [compiler, *_FLAGS, "-c", str(source), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(linked)],
        ):
            result = subprocess.run(  # noqa: S603 - as above
                command, capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                raise KernelUnavailableError(f"{source.name}: {result.stderr.strip()[-500:]}")
        linked.replace(library)
