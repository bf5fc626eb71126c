"""How the start of a server is told: to a program, to a pipe, to a terminal."""

import asyncio
import io
import json

from rich.console import Console

from headstream.server.cli.loading import LoadingDisplay
from headstream.server.cli.watch import EventWatcher, TerminalWatcher
from headstream.server.config import Settings
from headstream.server.engine.messages import Loading
from headstream.server.front import Ports
from headstream.v1 import model_service_pb2 as model_pb
from scripted_server import Script, scripted_server


def test_a_program_reads_json_lines(capsys):
    watcher = EventWatcher()
    watcher.on_progress(Loading(stage="weights", done=1, total=3))
    watcher.on_ready(Ports("127.0.0.1", 50051, 9090))
    loading, ready = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert loading == {"event": "loading", "stage": "weights", "done": 1, "total": 3}
    assert ready == {"event": "ready", "address": "127.0.0.1:50051", "admin_port": 9090}


def shown(*, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None)
    with LoadingDisplay(console) as display:
        display.update("converting", 0, 1)
        display.update("weights", 1, 2)
        display.update("weights", 2, 2)
        display.update("hashing", 0, 1)
        display.finish()
    return stream.getvalue()


def test_a_pipe_gets_one_plain_line_per_stage():
    assert shown(terminal=False).splitlines() == [
        "Starting the engine",
        "Converting the weights (once)",
        "Loading the weights",
        "Taking the fingerprint",
    ]


def test_a_terminal_gets_bars_that_are_all_full_at_the_end():
    last = shown(terminal=True).rpartition("Starting the engine")[2]
    assert "2/2" in last
    assert last.count("1/1") == 3


async def greeting(port, capsys):
    watcher = TerminalWatcher(Settings())
    watcher.on_progress(Loading(stage="weights", done=1, total=3))
    watcher.on_ready(Ports("127.0.0.1", port, 9090))
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)
    watcher.close()
    return capsys.readouterr().err.splitlines()


async def test_readiness_names_the_models_that_the_server_itself_tells(capsys):
    script = Script()
    reply = model_pb.ListModelsResponse(models=[model_pb.Model(name="tiny")])
    script.list_models = lambda request, context: reply
    with scripted_server(script) as server:
        server.start()
        lines = await greeting(script.port, capsys)
    ready = f"ready: gRPC 127.0.0.1:{script.port}, admin http://127.0.0.1:9090, serving tiny"
    assert lines == ["Starting the engine", "Loading the weights", ready]


async def test_readiness_is_told_even_where_the_server_cannot_be_asked(capsys):
    with scripted_server(Script()) as server:
        server.start()
        lines = await greeting(1, capsys)
    assert lines[-1] == "ready: gRPC 127.0.0.1:1, admin http://127.0.0.1:9090"
