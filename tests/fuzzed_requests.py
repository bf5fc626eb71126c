"""Requests of every method: made of the contract itself, and good ones with damaged bytes.

Of a seeded `random.Random` and not of Hypothesis: nothing is made smaller here, and a message takes
a tenth of the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from fuzzed_values import qualified, value
from good_calls import good_calls
from served_methods import METHODS

ALWAYS = {
    *("prompt", "input", "inputs", "items", "item", "text", "move", "content", "ids"),
    *("InferInputTensor.name", "datatype", "shape", "raw_input_contents", "parameter_choice"),
    *("documents", "Document.id", "query", "any_of", "Condition.key"),
}
"""Fields without which a request is refused before it is looked at."""
OFTEN, SELDOM = 0.9, 0.3
DEEPEST = 12  # messages within messages


def message(rng: random.Random, of: Descriptor, depth: int = 0) -> Message:
    """A message whose fields are there or not, one at most of each oneof."""
    made = GetMessageClass(of)()
    chosen = {
        name: rng.choice(list(group.fields))
        for name, group in of.oneofs_by_name.items()
        if len(group.fields) > 1
    }
    for each in of.fields:
        group = each.containing_oneof
        if group is not None and group.name in chosen and chosen[group.name] is not each:
            continue
        names = {each.name, qualified(each)} | ({group.name} if group is not None else set())
        if depth < DEEPEST and rng.random() < (OFTEN if names & ALWAYS else SELDOM):
            _fill(rng, made, each, depth)
    return made


def _fill(rng: random.Random, made: Any, each: FieldDescriptor, depth: int) -> None:
    place = getattr(made, each.name)
    if each.message_type is not None and each.message_type.GetOptions().map_entry:
        key, entry = each.message_type.fields
        for _ in range(rng.randrange(3)):
            if entry.message_type is None:
                place[value(rng, key)] = value(rng, entry)
            else:
                place[value(rng, key)].CopyFrom(message(rng, entry.message_type, depth + 1))
    elif each.is_repeated:
        place.extend(_one(rng, each, depth) for _ in range(rng.choice([1, 1, 1, 2, 3])))
    elif each.message_type is not None:
        place.CopyFrom(message(rng, each.message_type, depth + 1))
    else:
        setattr(made, each.name, value(rng, each))


def _one(rng: random.Random, each: FieldDescriptor, depth: int) -> Any:
    if each.message_type is not None:
        return message(rng, each.message_type, depth + 1)
    return value(rng, each)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes of a message, changed in a few places."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(data))
        match rng.randrange(6):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
            case 3:
                data = data[:at] + data[at + rng.randint(1, 4) :]
            case 4:
                data += data[at:]  # messages behind one another are merged
            case _:  # a length or a number beyond everything
                data = data[:at] + b"\xff" * rng.randint(1, 10) + b"\x7f" + data[at:]
    return data


@cache
def serialized(method: str) -> list[list[bytes]]:
    """The good calls of a method."""
    return [[each.SerializeToString() for each in call] for call in good_calls(method)]


def made_call(rng: random.Random, method: str) -> list[bytes]:
    """The messages of one call, made of the contract."""

    def made() -> bytes:
        return message(rng, METHODS[method].input_type).SerializeToString()

    if not METHODS[method].client_streaming:
        return [made()]
    if rng.random() < 0.5:
        return [made() for _ in range(rng.randrange(5))]
    return [serialized(method)[0][0], made(), made()]


def damaged_call(rng: random.Random, method: str) -> list[bytes]:
    """The messages of a good call, one of them damaged."""
    messages = [*rng.choice(serialized(method))]
    at = rng.randrange(len(messages))
    messages[at] = damaged(rng, messages[at])
    return messages


def replies_of(method: str, replies: list[bytes]) -> Iterator[Message]:
    """The replies of a call; they must be messages of the contract."""
    kind = GetMessageClass(METHODS[method].output_type)
    for data in replies:
        yield kind.FromString(data)
