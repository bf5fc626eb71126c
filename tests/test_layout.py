"""The rules of the tree that no linter knows."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PORTIONS = {
    "proto": ROOT / "proto" / "headstream" / "v1",
    "open inference": ROOT / "proto" / "headstream" / "open_inference",
    "client": ROOT / "client" / "headstream" / "client",
    "server": ROOT / "server" / "headstream" / "server",
    "lookup": ROOT / "server" / "headstream" / "lookup",
    "access": ROOT / "server" / "headstream" / "access",
    "model": ROOT / "model" / "headstream" / "model",
}
NAMESPACES = sorted({path.parent for path in PORTIONS.values()})
FOLDERS = {"proto", "server", "model", "client", "tests", "deploy", "docs"}
OUTPUT = {"node_modules", "dist", "build", "htmlcov", "__pycache__", "shared"}
MAX_LINES = 300

SOURCES = sorted(
    path
    for portion in PORTIONS.values()
    for path in portion.rglob("*.py")
    if "_pb2" not in path.name and "node_modules" not in path.parts
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name(path))


def test_top_level_folders_are_the_fixed_ones() -> None:
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert found - OUTPUT <= FOLDERS


@pytest.mark.parametrize("namespace", NAMESPACES, ids=name)
def test_namespace_stays_open(namespace: Path) -> None:
    """An __init__.py beside a portion closes the namespace and hides the others."""
    assert not (namespace / "__init__.py").exists()


@pytest.mark.parametrize("namespace", NAMESPACES, ids=name)
def test_no_loose_modules(namespace: Path) -> None:
    """A loose module becomes a top-level import under a name that belongs to everybody.

    In proto/ an __init__.py would also shadow proto-plus when Python starts in the root.
    """
    assert sorted(map(name, namespace.parent.glob("*.py"))) == []


@pytest.mark.parametrize("namespace", NAMESPACES, ids=name)
def test_namespace_has_only_portions(namespace: Path) -> None:
    found = {path for path in namespace.iterdir() if path.name != "__pycache__"}
    assert found == {path for path in PORTIONS.values() if path.parent == namespace}


@pytest.mark.parametrize("folder", PORTIONS)
def test_portion_is_typed(folder: str) -> None:
    assert (PORTIONS[folder] / "py.typed").is_file()


@pytest.mark.parametrize("folder", ["client", "server", "lookup", "access", "model"])
def test_packages_have_an_init(folder: str) -> None:
    """Below the namespace every folder with modules is a regular package."""
    folders = {path.parent for path in PORTIONS[folder].rglob("*.py")}
    assert [name(path) for path in sorted(folders) if not (path / "__init__.py").is_file()] == []


def test_tests_have_no_init() -> None:
    """Tests are imported by path (--import-mode=importlib)."""
    assert sorted(map(name, (ROOT / "tests").rglob("__init__.py"))) == []


@pytest.mark.parametrize("folder", ["proto", "open inference"])
def test_generated_modules_stand_beside_their_proto(folder: str) -> None:
    stubs = {re.sub(r"_pb2(_grpc)?\.pyi?$", "", p.name) for p in PORTIONS[folder].glob("*_pb2*")}
    assert stubs == {path.stem for path in PORTIONS[folder].glob("*.proto")}


def test_packaging_lists_every_portion() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = list(map(name, NAMESPACES))
    assert sorted(build["dev-mode-dirs"]) == sorted(path.split("/")[0] for path in packages)
    assert sorted(build["targets"]["wheel"]["packages"]) == sorted(packages)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_file_fits_in_one_reading(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_module_has_a_docstring(path: Path) -> None:
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        pytest.fail("an empty __init__.py: say in a line what the package holds")
    assert ast.get_docstring(parse(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_code_from_checkpoints(path: Path) -> None:
    """Weights are data: no pickle in any of its guises, no remote code."""
    assert list(unsafe_loading(parse(path))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_environment_is_read_in_functions_only(path: Path) -> None:
    """Importing a module decides nothing: settings are read when something starts."""
    assert list(environment_reads_at_import(parse(path))) == []


def test_client_imports_without_torch_or_server() -> None:
    """The base install has neither, so the import of the client must not reach for them."""
    code = (
        "import sys\n"
        "for blocked in ('torch', 'transformers', 'pydantic', 'typer', 'zmq', 'msgspec',\n"
        "                'headstream.server', 'headstream.model'):\n"
        "    sys.modules[blocked] = None\n"
        "import headstream.client\n"
        "missing = [n for n in headstream.client.__all__ if not hasattr(headstream.client, n)]\n"
        "assert not missing, missing\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nX = os.environ['A']", [2]),
        ("import os\nclass C:\n    x = os.getenv('A')", [3]),
        ("import os\ndef f(x=os.environ):\n    return os.environ", [2]),
        ("from os import getenv\ngetenv('A')", [2]),
        ("import os\nf = lambda: os.environ", []),
    ],
)
def test_environment_rule_sees(source: str, lines: list[int]) -> None:
    assert list(environment_reads_at_import(ast.parse(source))) == lines


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=flag)",
        "f(allow_pickle=True)",
    ],
)
def test_unsafe_rule_sees(source: str) -> None:
    assert list(unsafe_loading(ast.parse(source)))


PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe_loading(tree: ast.Module) -> Iterator[int]:
    """Lines that could run code a checkpoint brings."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if any(n.name.split(".")[0] in PICKLES for n in names):
                yield node.lineno
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES:
                yield node.lineno
            case ast.ImportFrom(module="torch", names=names) if any(
                n.name == "load" for n in names
            ):
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                yield node.lineno
            case ast.keyword(arg="trust_remote_code" | "allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                yield node.value.lineno
            case _:
                pass


def environment_reads_at_import(tree: ast.Module) -> Iterator[int]:
    """Lines outside of function bodies that touch the process's environment."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
        if alias.name in {"environ", "getenv", "putenv"}
    }

    def visit(node: ast.AST) -> Iterator[int]:
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "putenv"):
                yield node.lineno
            case ast.Name(id=str(found)) if found in names:
                yield node.lineno
            case _:
                pass
        for child in children_run_at_import(node):
            yield from visit(child)

    yield from visit(tree)


def children_run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when `node` does; of a function only its decorators and default values do."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from node.decorator_list
            yield from (default for default in node.args.defaults)
            yield from (default for default in node.args.kw_defaults if default)
        case ast.Lambda():
            yield from node.args.defaults
        case _:
            yield from ast.iter_child_nodes(node)
