"""Our words for the Open Inference Protocol against the descriptors that tritonclient brings."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from headstream.open_inference import inference_pb2
from interop_judge import interop_program

DESCRIBE = """
import json
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2
described = FileDescriptorProto()
service_pb2.DESCRIPTOR.CopyToProto(described)
print(json.dumps(MessageToDict(described)))
"""


def fields(messages: list[Any], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """Full name -> number, type, label and message of every field, nested ones too."""
    found: dict[str, tuple[Any, ...]] = {}
    for message in messages:
        name = f"{prefix}{message['name']}"
        for each in message.get("field", ()):
            what = (each["number"], each["type"], each["label"], each.get("typeName"))
            found[f"{name}.{each['name']}"] = what
        found |= fields(message.get("nestedType", []), f"{name}.")
    return found


def methods(file: Any) -> dict[str, tuple[Any, ...]]:
    [service] = file["service"]
    return {
        f"{service['name']}/{each['name']}": (
            each["inputType"],
            each["outputType"],
            each.get("clientStreaming", False),
            each.get("serverStreaming", False),
        )
        for each in service["method"]
    }


@pytest.fixture(scope="module")
def theirs() -> Any:
    command = [interop_program("python"), "-c", DESCRIBE]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def ours() -> Any:
    from google.protobuf.json_format import MessageToDict

    described = FileDescriptorProto()
    inference_pb2.DESCRIPTOR.CopyToProto(described)
    return MessageToDict(described)


def test_every_field_is_theirs(ours: Any, theirs: Any) -> None:
    known, mine = fields(theirs["messageType"]), fields(ours["messageType"])
    assert len(mine) > 50
    assert {name: what for name, what in mine.items() if known.get(name) != what} == {}
    assert ours["package"] == theirs["package"]


def test_every_method_is_theirs(ours: Any, theirs: Any) -> None:
    known = methods(theirs)
    assert len(methods(ours)) == 7
    assert {name: what for name, what in methods(ours).items() if known.get(name) != what} == {}


def test_another_number_is_seen(ours: Any, theirs: Any) -> None:
    """Negative control."""
    known, mine = fields(theirs["messageType"]), fields(ours["messageType"])
    mine["ModelInferRequest.raw_input_contents"] = (8, *mine["ModelInferRequest.id"][1:])
    assert [name for name, what in mine.items() if known.get(name) != what] == [
        "ModelInferRequest.raw_input_contents"
    ]
