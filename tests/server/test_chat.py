"""Chat templates against those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny_tokenizers
from headstream.server.chat import ChatTemplate
from headstream.server.errors import InvalidRequest
from headstream.server.tokenizer import TextTokenizer

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}
{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ first if loop.first else '' }}{{ message['content'] | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
CHATML = """{% set ns = namespace(count=0) %}{% for message in messages %}
{% set ns.count = ns.count + 1 %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}
{%- else %}{{ message.content }}{% endif %}{{ '<|im_end|>\\n' }}
{%- if ns.count == 2 %}{% continue %}{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
JSON = """{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ eos_token }}{{ tools is none }}
{%- if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}{{ pad_token is defined }}"""
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "The chicken  "}],
    [
        {"role": "system", "content": "naïve <b>cafés</b> & 日本語"},
        {"role": "user", "content": "So long"},
        {"role": "assistant", "content": "and thanks"},
        {"role": "user", "content": "\n<bos> typed by hand"},
    ],
]


def save(directory: Path, template: Any) -> Any:
    """A tokenizer of transformers, saved beside nothing; the tokenizer itself."""
    library = tiny_tokenizers.byte_level_tokenizer()
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )
    theirs.save_pretrained(directory)
    return theirs


def rows(chat: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in chat]


@pytest.mark.parametrize("chat", CHATS, ids=["short", "long"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("source", [GEMMA, CHATML, JSON], ids=["gemma", "chatml", "json"])
def test_text_and_tokens_equal_transformers(
    tmp_path: Path, source: str, prompt: bool, chat: list[dict[str, str]]
) -> None:
    theirs = save(tmp_path, source)
    ours = TextTokenizer.from_directory(tmp_path)
    assert ours.chat_template is not None
    text = ours.chat_template.render("chat", rows(chat), add_generation_prompt=prompt)
    assert text == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    tokens = ours.encode(text, skip_special=True)
    expected = theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=False)
    assert list(tokens.ids) == expected
    assert tokens.byte_ranges[-1][1] == len(text.encode())


def test_several_templates_have_a_default(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    template = ChatTemplate.from_directory(tmp_path)
    assert template is not None
    assert template.render("chat", rows(CHATS[0]), add_generation_prompt=False) == "d"


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = ChatTemplate.from_directory(tmp_path)
    assert template is not None
    assert template.render("chat", [("user", "a")], add_generation_prompt=False) == "<s></s>"


def test_without_a_template(tmp_path: Path) -> None:
    assert ChatTemplate.from_directory(tmp_path) is None
    save(tmp_path, None)
    assert TextTokenizer.from_directory(tmp_path).chat_template is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ messages[0].content.nothing.more }}", "refuses it"),
        ("{% for %}", "refuses it"),
        ("{{ 1 / 0 }}", "cannot write it"),
        ("{{ ''.__class__.__mro__ }}", "refuses it"),
        ("{{ messages.append(1) }}", "refuses it"),
        ("{{ range(999999999) | list }}", "cannot write it"),
        ("{% include '/etc/passwd' %}", "cannot write it"),
    ],
)
def test_what_a_template_may_not_do(source: str, message: str) -> None:
    template = ChatTemplate(source, {})
    with pytest.raises(InvalidRequest, match=message) as caught:
        template.render("prompt.chat", rows(CHATS[0]), add_generation_prompt=False)
    assert caught.value.field == "prompt.chat"
    assert "root:" not in str(caught.value)
