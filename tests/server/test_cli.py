"""The commands: how quick they are to start, and how they fail."""

import json
import subprocess
import sys

import grpc

from command_line import run
from headstream.v1 import model_service_pb2 as model_pb


def modules_after(code):
    probe = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_loads_no_heavy_library():
    heavy = {"torch", "transformers", "grpc", "numpy", "pydantic", "google.protobuf"}
    assert not heavy & modules_after("import headstream.server.cli")


def test_the_front_of_serve_loads_no_torch():
    code = "import headstream.server.front, headstream.server.cli.watch"
    assert "torch" not in modules_after(code)


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "headstream.server.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(
        name in done.stdout for name in ("serve", "generate", "embed", "score", "models", "demo")
    )


def test_models_as_a_table_and_as_json(script):
    reply = model_pb.ListModelsResponse(models=[model_pb.Model(name="tiny")])
    script.list_models = lambda request, context: reply
    assert "tiny" in run("models", "-a", script.address).stdout
    (line,) = run("models", "-a", script.address, "--json").stdout.splitlines()
    assert json.loads(line)["name"] == "tiny"


def test_an_error_of_the_server_is_one_line_and_exit_code_1(script):
    def refuse(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    script.embed = refuse
    result = run("embed", "a", "-a", script.address)
    assert result.exit_code == 1
    assert result.stderr == "error: NOT_FOUND: no such model\n"


def test_a_wrong_setting_of_serve_is_named_with_exit_code_2():
    result = run("serve", "--port", "0", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: host: 0.0.0.0 can be reached by other machines")


def test_the_flags_of_serve_are_the_settings():
    result = run("serve", "--help")
    assert result.exit_code == 0
    assert "--max-num-batched-tokens" in result.stdout
    assert "--config FILE" in result.stdout


def test_the_demo_says_why_its_server_could_not_start(tmp_path):
    result = run("demo", "--model", str(tmp_path / "missing.gguf"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
