"""Each example gives what a local run of `transformers` gives."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import llguidance.numpy as masks
import pytest
import torch
import transformers

from examples.beam_search import beam_search
from examples.constrained_json import SCHEMA, constrained_json, make_matcher
from examples.speculative import speculate
from headstream.client import Client
from server_process import running_server
from tiny_models import save_tiny
from tiny_tokenizers import byte_level_tokenizer

PROMPT = [2, 41, 97, 300, 12, 64]


def save_model(directory: Path) -> Path:
    """A random model that says something: with tied weights it would repeat the last token."""
    save_tiny("gemma3", directory, vocab_size=420, tie_word_embeddings=False)
    byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def load(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def draft(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that agrees with the target now and then: the same weights with noise."""
    directory = save_model(tmp_path_factory.mktemp("draft"))
    model = load(target)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05 * float(weight.std()))
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def client(target: Path, draft: Path) -> Generator[Client]:
    flags = ["--models", f"draft={draft}", "--dtype", "float32"]
    with running_server(target, *flags) as server, Client(server.address) as client:
        yield client


def continued(directory: Path, new_tokens: int, **options: Any) -> Any:
    """What `transformers` generates, without an end of text."""
    model = load(directory)
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([PROMPT])
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


def test_beam_search(client: Client, target: Path) -> None:
    found = beam_search(client, PROMPT, width=4, new_tokens=12)
    expected = continued(
        target, 12, num_beams=4, num_return_sequences=4, length_penalty=0.0, early_stopping=False
    )
    assert [token_ids for _, token_ids in found] == expected.sequences[:, len(PROMPT) :].tolist()
    scores = torch.tensor([score for score, _ in found])
    torch.testing.assert_close(scores, expected.sequences_scores, atol=1e-3, rtol=1e-4)
    greedy = continued(target, 12).sequences[0, len(PROMPT) :].tolist()
    assert found[0][1] != greedy, "the search has something to find"


@pytest.mark.parametrize("ahead", [1, 4])
def test_speculative_decoding(client: Client, target: Path, ahead: int) -> None:
    result = speculate(client, PROMPT, 60, large="tiny", small="draft", ahead=ahead)
    assert result.token_ids == continued(target, 60).sequences[0, len(PROMPT) :].tolist()
    assert 0 < result.accepted < result.guessed


class Masked(transformers.LogitsProcessor):
    """Leaves the logits of what the schema admits."""

    def __init__(self, tokenizer_file: str, prompt_len: int, d_vocab: int) -> None:
        self._matcher = make_matcher(tokenizer_file, d_vocab, SCHEMA)
        self._mask = masks.allocate_token_bitmask(1, d_vocab)
        self._seen = prompt_len

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for token in input_ids[0, self._seen :].tolist():
            self._matcher.consume_token(token)
        self._seen = input_ids.shape[1]
        masks.fill_next_token_bitmask(self._matcher, self._mask)
        masks.apply_token_bitmask_inplace(scores.numpy(), self._mask)
        return scores


def test_constrained_json(client: Client, target: Path) -> None:
    tokenizer_file = str(target / "tokenizer.json")
    found = constrained_json(client, PROMPT, tokenizer_file, SCHEMA)
    text = client.detokenize(found)
    values = json.loads(text)
    assert set(values) == set(SCHEMA["properties"])
    assert len(values["animal"]) <= 12
    assert 0 <= values["legs"] <= 8
    masked = Masked(tokenizer_file, len(PROMPT), 420)
    expected = continued(target, len(found), logits_processor=[masked])
    assert found == expected.sequences[0, len(PROMPT) :].tolist()
    free = continued(target, len(found)).sequences[0, len(PROMPT) :].tolist()
    assert found != free, "the schema has something to forbid"
