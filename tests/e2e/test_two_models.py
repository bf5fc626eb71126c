"""A decoder and an encoder in one server, each an engine process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

import tiny_tokenizers
from headstream.client import Client, NotFound, Unavailable, Unimplemented
from server_process import Server, running_server, save_tiny_model
from tiny_models import save_tiny

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TEXT = "the chicken crossed"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    decoder = save_tiny_model(tmp_path_factory.mktemp("decoder"))
    encoder = save_tiny("bert", tmp_path_factory.mktemp("encoder"))
    tiny_tokenizers.word_piece_tokenizer().save(str(encoder / "tokenizer.json"))
    return decoder, encoder


@pytest.fixture
def server(checkpoints: tuple[Path, Path]) -> Generator[Server]:
    decoder, encoder = checkpoints
    with running_server(decoder, "--models", f"encoder={encoder}") as running:
        yield running


def test_each_answers_by_its_name(server: Server) -> None:
    assert len(server.engines()) == 2
    with Client(server.address) as client:
        assert [model.name for model in client.models()] == ["tiny", "encoder"]
        assert client.embed(TEXT, model="tiny").shape[-1] != 0
        alone = client.embed(TEXT, model="encoder")
        among = client.embed([TEXT, "a the", TEXT], model="encoder")
        assert np.array_equal(among[0], np.ravel(alone))
        assert np.array_equal(among[2], np.ravel(alone))
        steps = list(client.generate(TEXT, max_new_tokens=3, ignore_eos=True))
        assert len(steps) == 3, "the first model answers requests that name none"
        with pytest.raises(Unimplemented):
            list(client.generate(TEXT, model="encoder"))
        with pytest.raises(NotFound):
            client.embed(TEXT, model="another")


@pytest.mark.parametrize("doomed", ["encoder", "tiny"])
def test_the_death_of_one_leaves_the_other_serving_until_it_is_back(
    doomed: str, server: Server
) -> None:
    other = {"encoder": "tiny", "tiny": "encoder"}[doomed]
    assert server.health(f"model/{doomed}") == server.health() == SERVING
    call: Any = server.generate(1500)  # of the decoder
    next(call)
    with Client(server.address) as client:
        before = client.embed(TEXT, model=other)
        [engine] = [
            each for each in server.engines() if f'"name":"{doomed}"' in str(each.cmdline())
        ]
        os.kill(engine.pid, signal.SIGKILL)
        engine.wait(60)
        if doomed == "encoder":
            assert len(list(call)) == 1501, "every token and the end"
        else:
            with pytest.raises(grpc.RpcError):
                list(call)
        assert np.array_equal(client.embed(TEXT, model=other), before)
        assert server.health(f"model/{doomed}") == NOT_SERVING
        with pytest.raises(Unavailable):
            client.embed(TEXT, model=doomed)
        for _ in range(300):
            if server.health(f"model/{doomed}") == SERVING:
                break
            time.sleep(0.2)
        assert client.embed(TEXT, model=doomed).size, "its engine has been started again"
    assert server.metrics()["engine_restarts_total", doomed] == 1
    assert server.health(f"model/{other}") == SERVING
    assert server.health() == SERVING, "what the client's channel looks at"
