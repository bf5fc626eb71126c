"""What the generated text must look like, as a grammar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

import llguidance

from headstream.server.errors import InvalidRequest
from headstream.server.wire.fields import check_int
from headstream.v1 import logits_service_pb2 as pb

MAX_CONSTRAINT_BYTES = 65_536
_JSON_STYLE = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,16}"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar, not checked yet."""

    field: str  # it came in
    grammar: str  # in llguidance's own form


def parse_constraint(field: str, message: pb.Constraint) -> Constraint:
    """The constraint, if it is one and not too long to look at."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(field, "set regex, json_schema or lark")
    field = f"{field}.{kind}"
    text: str = getattr(message, kind)
    check_int(f"{field} bytes", len(text.encode()), 1, MAX_CONSTRAINT_BYTES)
    if kind == "regex":
        return Constraint(field, llguidance.LLMatcher.grammar_from_regex(text))
    part = {"lark_grammar": text} if kind == "lark" else {"json_schema": _parse_schema(field, text)}
    return Constraint(field, json.dumps({"grammars": [part]}))


def _parse_schema(field: str, text: str) -> object:
    """The schema, with bounds to white space: without them small models write nothing else."""
    try:
        schema: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            field, f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidRequest(field, "nested too deeply") from None
    if schema is True:
        return {"x-guidance": _JSON_STYLE}
    if isinstance(schema, dict):
        return {"x-guidance": _JSON_STYLE, **cast("dict[str, object]", schema)}
    return schema
