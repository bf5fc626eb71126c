"""A real server that has done a little of everything."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from headstream.client import Client, RpcError
from server_process import Server, running_server, save_tiny_model


@pytest.fixture(scope="session")
def used_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Every kind of metric has a value."""
    checkpoint = save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
    with running_server(checkpoint, "--kv-cache-bytes", str(64 << 20)) as server:
        with Client(server.address) as client:
            client.embed(["a text", "another"])
            list(client.embed_stream(["a text"]))
            list(client.generate("The chicken", max_new_tokens=4, logits="full"))
            left = iter(client.generate("The chicken", max_new_tokens=1000, ignore_eos=True))
            next(left)
            left.close()
            with pytest.raises(RpcError):
                client.embed("a text", model="no such model")
        yield server
