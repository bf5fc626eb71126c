"""What a user may name as a model, turned into a checkpoint directory."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from headstream.model.errors import SourceError
from headstream.model.loading import embedded
from headstream.model.loading.gguf import converted
from headstream.model.loading.progress import Progress, silent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Weights, configs and tokenizers. Never pickles, never code.
_HUB_FILES = [
    "model*.safetensors",  # some hubs keep a second copy under another name
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",  # of sentence-transformers, and what its steps say
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "*_Pooling/config.json",
    "*_Normalize/config.json",
]


def resolve(source: str, cache_dir: Path, progress: Progress = silent) -> Path:
    """The checkpoint directory of ``source``.

    ``source`` is an embedded model's name, an existing directory, a ``.gguf`` file, or a hub id
    "org/name"; a directory of that name wins over the hub. What has to be made or fetched is kept
    under ``cache_dir``.

    Raises:
        SourceError: it is none of these, or cannot be fetched.
        CheckpointError, UnsupportedModelError: a GGUF file that cannot be converted.
    """
    path = Path(source).expanduser()
    if source in embedded.EMBEDDED:
        return embedded.EMBEDDED[source](cache_dir, progress)
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise SourceError(f"{source}: no such file")
        return converted(path, cache_dir, progress)
    if _HUB_ID.fullmatch(source):
        return _snapshot(source, cache_dir / "hub", progress)
    raise SourceError(
        f"{source!r} is neither an embedded model ({', '.join(embedded.EMBEDDED)}), a directory, "
        "a .gguf file nor a hub id org/name"
    )


def _snapshot(repo_id: str, cache_dir: Path, progress: Progress) -> Path:
    progress("downloading", 0, 1)
    try:
        directory = snapshot_download(repo_id, cache_dir=cache_dir, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SourceError(f"{repo_id} cannot be fetched from the hub: {error}") from error
    progress("downloading", 1, 1)
    return Path(directory)
