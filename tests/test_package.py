"""What is published: the wheel, the source archive, and the base install without torch."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    # A PYTHONPATH of the caller's would let a checkout stand in for what is being installed.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_wheel_is_one_namespace(wheel: Path) -> None:
    files = [path.split("/") for path in zipfile.ZipFile(wheel).namelist()]
    tops = {path[0] for path in files if not path[0].endswith(".dist-info")}
    assert tops == {"headstream"}
    portions = {path[1] for path in files if path[0] == "headstream"}
    assert portions == {
        *("access", "client", "lookup", "model", "open_inference", "server", "v1"),
    }


@pytest.mark.parametrize("portion", ["v1", "client", "server", "lookup", "access", "model"])
def test_wheel_is_typed(wheel: Path, portion: str) -> None:
    assert f"headstream/{portion}/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_wheel_has_every_source(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("proto", "client", "server", "model"):
        for path in (ROOT / folder / "headstream").rglob("*"):
            if path.suffix in {".py", ".pyi", ".proto"}:
                assert str(path.relative_to(ROOT / folder)) in packed


def test_wheel_has_the_explorers_page_and_not_its_sources(wheel: Path) -> None:
    folder = "headstream/server/explorer"
    packed = set(zipfile.ZipFile(wheel).namelist())
    for name in ("index.html", "licenses.md", "assets/index.js", "assets/index.css"):
        assert f"{folder}/static/{name}" in packed
    assert not [path for path in packed if path.startswith(f"{folder}/web")]


def test_base_requirements_are_the_clients(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    requirements = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
    base = {line.split(">")[0].split("<")[0] for line in requirements if "extra ==" not in line}
    assert base == {"grpcio", "protobuf", "googleapis-common-protos", "numpy"}


def test_source_archive_has_what_it_builds_and_is_tested_from(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {file.partition("/")[2] for file in archive.getnames()}
    for needed in ("pyproject.toml", "LICENSE", "README.md", "Makefile", "constraints.txt"):
        assert needed in files
    assert "tests/test_package.py" in files
    assert "proto/headstream/v1/py.typed" in files
    assert "server/headstream/server/explorer/web/src/main.tsx" in files
    assert not [file for file in files if "__pycache__" in file or "node_modules" in file]
    assert not [file for file in files if file.startswith(".venv")]


@pytest.mark.timeout(600)
def test_base_install_is_the_client_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", wheel, "--constraint", constraints, cwd=tmp_path)
    code = (
        "import importlib.util as u\n"
        "import headstream.client, headstream.v1.logits_service_pb2_grpc\n"
        "from headstream.client import AsyncClient, Client\n"
        "assert u.find_spec('torch') is None and u.find_spec('pydantic') is None\n"
        "tops = 'server model client proto tests deploy'.split()\n"
        "assert not [top for top in tops if u.find_spec(top)]\n"
        "print(headstream.client.__file__)\n"
    )
    where = run(python, "-W", "error", "-c", code, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
