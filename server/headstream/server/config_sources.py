"""Where settings come from: flags win over variables, variables over a file, a file over defaults.

Nothing is read at import, only by :func:`load_settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from headstream.server.config import Settings
from headstream.server.errors import ConfigError


def load_settings(
    arguments: Sequence[str] = (), config_file: Path | None = None, **overrides: object
) -> Settings:
    """The settings from flags, the environment and a YAML file.

    Args:
        arguments: Flags as typed, such as ``["--port", "0"]``.
        config_file: A YAML file with a mapping of settings.
        **overrides: Settings parsed elsewhere; they win over variables and the file.

    Raises:
        ConfigError: A setting is unknown or wrong; every one of them is named.
    """
    values = {} if config_file is None else _read_yaml(config_file)

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    try:
        given: dict[str, Any] = {"_cli_parse_args": list(arguments), **overrides}
        return FileSettings(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        values: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if values is None:  # an empty file
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping of settings")
    return {str(key): value for key, value in cast(dict[object, object], values).items()}


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {text}" if where else text)
    return "\n".join(lines)
