"""Chats as text: the template that comes with a checkpoint, rendered in a sandbox.

The rules are those of the ``transformers`` library, without loading it: the same files, the same
variables and functions, and the same sandbox, since a template is a program from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headstream.server.errors import EngineStartError, InvalidRequest

_SHOWN = 300  # characters of a template's own message


class ChatTemplate:
    """The template of one checkpoint."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """``special_tokens``: by name, such as `bos_token`."""
        self._source = source
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_directory(cls, directory: Path) -> Self | None:
        """The template that lies beside the weights, if there is one.

        Raises:
            EngineStartError: A file that cannot be read.
        """
        path = directory / "tokenizer_config.json"
        config = _read_config(path)
        try:
            source = _find_source(config.get("chat_template"))
            path = directory / "chat_template.jinja"
            source = path.read_text("utf-8") if path.is_file() else source
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise EngineStartError(f"{path}: the chat template cannot be read") from None
        return None if source is None else cls(source, _special_tokens(config))

    def render(
        self, field: str, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool
    ) -> str:
        """The text of ``messages``, each a role and a content.

        Raises:
            InvalidRequest: The template refuses them; ``field`` is named.
        """
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            message = str(error)[:_SHOWN]
            raise InvalidRequest(
                field, f"the model's chat template refuses it: {message}"
            ) from None
        except Exception:  # whatever a template may do wrong
            raise InvalidRequest(field, "the model's chat template cannot write it") from None

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
        environment.globals.update(functions)
        return environment.from_string(self._source)


class _GenerationTag(Extension):
    """`{% generation %}` marks what the model wrote; here it is written like all else."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

    def parse(self, parser: Parser) -> list[Node]:
        """The marked statements themselves."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _read_config(path: Path) -> dict[str, object]:
    try:
        config: object = json.loads(path.read_bytes()) if path.is_file() else {}
    except OSError as error:
        raise EngineStartError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise EngineStartError(f"{path} is not JSON") from None
    return cast("dict[str, object]", config) if isinstance(config, dict) else {}


def _find_source(found: object) -> str | None:
    """One template, or the one called `default` among several."""
    if not isinstance(found, list):
        return found if isinstance(found, str) else None
    several = {entry["name"]: entry["template"] for entry in cast("list[dict[str, str]]", found)}
    return several.get("default")


def _special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """`bos_token` and its like, written as a text or as an object with its content."""
    tokens: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            value = cast("dict[str, object]", value).get("content")  # noqa: PLW2901 - one value
        if name.endswith("_token") and isinstance(value, str):
            tokens[name] = value
    return tokens


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without jinja2's own escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
