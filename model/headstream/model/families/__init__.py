"""Model families: one readable file each, and the table of what they can load."""

from __future__ import annotations

from collections.abc import Callable

from headstream.model.config import ModelConfig
from headstream.model.errors import UnsupportedModelError
from headstream.model.families.base import Model
from headstream.model.families.bert import BertModel
from headstream.model.families.gemma3 import Gemma3Model
from headstream.model.families.gpt2 import GPT2Model
from headstream.model.families.llama import LlamaModel
from headstream.model.families.modernbert import ModernBertModel
from headstream.model.kernels import Kernels
from headstream.model.weights import Weights

__all__ = ["ARCHITECTURES", "build_model", "family_of"]

_FAMILIES: dict[str, Callable[[ModelConfig, Weights, Kernels], Model]] = {
    "gpt2": GPT2Model,
    "llama": LlamaModel,
    "gemma3": Gemma3Model,
    "bert": BertModel,
    "modernbert": ModernBertModel,
}

ARCHITECTURES: dict[str, str] = {
    "GPT2LMHeadModel": "gpt2",
    "GPT2Model": "gpt2",
    "LlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "MistralForCausalLM": "llama",
    "MistralModel": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen2Model": "llama",
    "Qwen3ForCausalLM": "llama",
    "Qwen3Model": "llama",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3TextModel": "gemma3",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "RobertaModel": "bert",
    "RobertaForMaskedLM": "bert",
    "XLMRobertaModel": "bert",
    "XLMRobertaForMaskedLM": "bert",
    "DistilBertModel": "bert",
    "DistilBertForMaskedLM": "bert",
    "ModernBertModel": "modernbert",
    "ModernBertForMaskedLM": "modernbert",
}
"""A checkpoint's own word for itself -> the family that computes it."""


def family_of(architecture: str) -> str:
    """The family of a checkpoint's ``architectures`` entry.

    Raises:
        UnsupportedModelError: no family computes it.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(f"architecture {architecture!r} is unknown (known: {known})")
    return ARCHITECTURES[architecture]


def build_model(config: ModelConfig, weights: Weights, kernels: Kernels) -> Model:
    """The model ``config`` describes, computed by ``kernels``.

    Raises:
        UnsupportedModelError: an unknown family, activation or rotary scaling.
        CheckpointError: a tensor is missing or misshapen.
    """
    if config.family not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise UnsupportedModelError(f"family {config.family!r} is unknown (known: {known})")
    return _FAMILIES[config.family](config, weights, kernels)
