"""What the package gives to the world, and what it needs."""

import dataclasses
import inspect
import subprocess
import sys
import types

import headstream.client as package
from headstream.client import AsyncClient, Client


def test_all_is_exactly_what_can_be_imported():
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name != "annotations"
    }
    assert set(package.__all__) == public
    assert list(package.__all__) == sorted(package.__all__)


def test_it_needs_no_library_of_the_server():
    code = (
        "import sys, headstream.client\n"
        "heavy = {'torch', 'pydantic', 'rich', 'typer', 'transformers', 'msgspec', 'zmq'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_async_client_has_the_methods_and_arguments_of_the_sync_one():
    def methods(kind):
        return {
            name: [
                (p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()
            ]
            for name, value in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


def test_every_method_says_what_it_does():
    for kind in (Client, AsyncClient):
        for name, value in inspect.getmembers(kind, inspect.isfunction):
            assert name.startswith("_") or value.__doc__, name


def test_results_cannot_be_changed():
    for name in package.__all__:
        value = getattr(package, name)
        if dataclasses.is_dataclass(value) and isinstance(value, type):
            assert value.__dataclass_params__.frozen, name  # type: ignore[attr-defined]
