"""GGUF files, converted once to a safetensors directory in float32.

Reading the format and undoing its permutations is ``transformers``' work; float32 holds every
dequantized value exactly, so the directory computes what the file says.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from headstream.model.errors import CheckpointError, MissingTensorError, UnusedTensorError
from headstream.model.loading.cache import build_once
from headstream.model.loading.gguf_config import config_from_metadata
from headstream.model.loading.library import transformers
from headstream.model.loading.manifest import sha256_of
from headstream.model.loading.progress import Progress, silent

_CONVERTER = "1"  # raise when the conversion's result changes


def converted(gguf: Path, cache_dir: Path, progress: Progress = silent) -> Path:
    """The safetensors directory of a GGUF file, converted at its first use.

    Raises:
        UnsupportedModelError: the file holds a model or a key that is not implemented.
        CheckpointError: the file cannot be read or lacks tensors.
    """
    progress("checksum", 0, 1)
    digest = sha256_of(gguf)
    progress("checksum", 1, 1)
    target = cache_dir / "gguf" / f"{gguf.stem}-{digest[:16]}"
    return build_once(target, stamp(digest), lambda building: convert(gguf, building, progress))


def stamp(sha256: str) -> dict[str, str]:
    """What a converted directory remembers of its source."""
    return {"source_sha256": sha256, "converter": _CONVERTER}


def convert(gguf: Path, out: Path, progress: Progress = silent) -> None:
    """Write ``gguf`` as a Hugging Face directory into ``out``: config, weights, tokenizer.

    All weights are in memory at once, in float32.

    Raises:
        UnsupportedModelError, CheckpointError: see ``converted``.
    """
    config, tensors = _read(gguf, progress)
    progress("writing", 0, 1)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)
    transformers().GenerationConfig.from_model_config(config).save_pretrained(out)
    progress("writing", 1, 1)
    progress("tokenizer", 0, 1)
    _save_tokenizer(gguf, config, out)
    progress("tokenizer", 1, 1)


_UNREADABLE = (OSError, ValueError, IndexError, KeyError, NotImplementedError, struct.error)


def _read(gguf: Path, progress: Progress) -> tuple[Any, dict[str, Tensor]]:
    """The config object, and all tensors dequantized, by their Hugging Face names.

    Raises:
        UnusedTensorError, MissingTensorError: the file and its architecture do not match.
    """
    loader = transformers(".modeling_gguf_pytorch_utils")
    progress("converting", 0, 1)
    try:
        # Long arrays come as their lengths, which keeps this first look at the file short.
        metadata, stored = transformers(".integrations.gguf").read_gguf_metadata(str(gguf))
        settings = config_from_metadata(metadata, stored)
        config = transformers().AutoConfig.for_model(**settings, dtype="float32")
        with torch.device("meta"):  # names and shapes only
            skeleton = transformers().AutoModelForCausalLM.from_config(config)
        known = loader.get_gguf_hf_weights_map(skeleton, loader.TensorProcessor())
        if unknown := set(stored) - known.keys():  # the loader passes over them without a word
            raise UnusedTensorError(unknown)
        with _own_bar(loader, progress):
            tensors: dict[str, Tensor] = loader.load_gguf_checkpoint(
                str(gguf), return_tensors=True, model_to_load=skeleton, torch_dtype=torch.float32
            )["tensors"]
    except _UNREADABLE as error:
        raise CheckpointError(f"{gguf} is not a readable GGUF file: {error}") from error
    missing: set[str] = skeleton.state_dict().keys() - tensors.keys()
    if config.tie_word_embeddings:
        missing.discard("lm_head.weight")
    if missing:
        raise MissingTensorError(min(missing))
    progress("converting", 1, 1)
    return config, {name: tensor.contiguous() for name, tensor in tensors.items()}


@contextmanager
def _own_bar(loader: Any, progress: Progress) -> Generator[None]:
    """Let the library's loop over the tensors tell us how far it is, not the terminal."""

    def counted(tensors: list[Any], **_: Any) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            progress("converting", done, len(tensors))
            yield tensor

    bar = loader.tqdm
    loader.tqdm = counted
    try:
        yield
    finally:
        loader.tqdm = bar


def _save_tokenizer(gguf: Path, config: Any, out: Path) -> None:
    # Naming the type saves a slow pass over the vocabulary, where the library takes a name.
    names = transformers(".models.auto.tokenization_auto").TOKENIZER_MAPPING_NAMES
    hint = {"tokenizer_type": config.model_type} if config.model_type in names else {}
    try:
        tokenizer = transformers().AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True, **hint
        )
    except Exception as error:  # what the tokenizer library raises has no narrower type
        raise CheckpointError(f"{gguf}: its tokenizer cannot be built: {error}") from error
    tokenizer.save_pretrained(out)
