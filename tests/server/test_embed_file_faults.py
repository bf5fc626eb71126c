"""`headstream embed FILE -o OUTPUT` where the server has a fault at some lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_messages import stream_answer
from headstream.client import Client
from headstream.server.cli.embed_file import embed_file
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import types_pb2
from scripted_server import Script, scripted_server

PRINT = types_pb2.ModelFingerprint(model="m", weights_sha256="a")
FAULT = pb.EmbedResult(error=pb.ItemError(code=13, message="internal error", reason="INTERNAL"))


def test_lines_at_which_the_server_failed_are_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"bb", "ccc"}
    seen: list[list[str]] = []

    def answer(requests: Any, context: Any) -> Iterator[pb.EmbedStreamResponse]:
        texts: list[str] = []
        seen.append(texts)
        for request in requests:
            answers: list[pb.EmbedStreamAnswer] = []
            for item in request.items:
                text = item.item.input.text
                texts.append(text)
                failed = pb.EmbedStreamAnswer(id=item.id, result=FAULT)
                answers.append(failed if text in broken else stream_answer(item))
            yield pb.EmbedStreamResponse(fingerprint=PRINT, answers=answers)

    model = model_pb.Model(name="m", fingerprint=PRINT)
    script = Script(embed_stream=answer)
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=model)
    source, output = tmp_path / "a.txt", tmp_path / "a.npy"
    source.write_text("a\nbb\nccc\ndddd\n")
    with scripted_server(script) as server:
        server.start()
        with Client(script.address) as client:
            with pytest.raises(ValueError, match=r"a fault at 2 lines.*: internal error"):
                embed_file(client, source, output, "", {})
            assert "the same command goes on" in capsys.readouterr().err
            assert not output.exists()
            broken.clear()
            embed_file(client, source, output, "", {})
    assert seen == [["a", "bb", "ccc", "dddd"], ["bb", "ccc"]]
    assert np.load(output).tolist() == [[1, 1], [2, 1], [3, 1], [4, 1]]
