"""The template that other tools get: the tokens and marks of training, whatever the template."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bezoar.chat.jinja_form import marked
from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import ChatML, Hermes, HubTemplate, OpenBezoarTemplate, Template
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError
from bezoar.model.chat_files import save_chat_files
from tests.chat.test_hermes import WITH_TOOLS
from tests.helpers.known_tokenizers import CHATML_TEMPLATE, smollm, stories, tiny

LINES = (
    "\n{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}\n"
    "  {% if tools is defined and tools %}{{ 'tools: ' ~ tools | length }}{% endif %}\n"
    "{% for m in loop_messages %}\n"
    "    {% set n = namespace(text='<|im_start|>' + m.role + '\n') %}\n"
    "{{ bos_token if loop.first }}{{ n.text }}{{ m.content }}{{ eos_token }}\n"
    "{%- endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}\n"
)
OWN_MARKS = CHATML_TEMPLATE.replace(
    "{{ '<|im_start|>'", "{% generation %}{% endgeneration %}{{ '<|im_start|>'", 1
)


def save(tokenizer: HubTokenizer, template: Template, folder: Path) -> None:
    from transformers import GenerationConfig

    net = SimpleNamespace(generation_config=GenerationConfig())
    stack: Any = SimpleNamespace(tokenizer=tokenizer, net=net)
    save_chat_files(stack, template, folder)


HOSTILE = 'It\'s \\n {{ 7 }} {% raw %} "x"\r\n\tnaïve 😀 SYSTEM END'


@pytest.mark.parametrize(
    "template", [ChatML(), ChatML(HOSTILE), Hermes(HOSTILE), OpenBezoarTemplate()]
)
def test_our_templates_have_a_jinja_form(template: Template, tmp_path: Path) -> None:
    save(tiny(), template, tmp_path)
    assert "{% generation %}" in (tmp_path / "chat_template.jinja").read_text()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert ("response_template" in settings) == isinstance(template, Hermes)


@pytest.mark.parametrize("jinja", [CHATML_TEMPLATE, LINES, WITH_TOOLS])
def test_marks_are_put_into_anyone_s_template(jinja: str, tmp_path: Path) -> None:
    save(tiny(jinja), HubTemplate(), tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("make", [smollm, stories])
@pytest.mark.parametrize("template", [ChatML(HOSTILE), OpenBezoarTemplate(), HubTemplate()])
def test_trained_tokenizers_give_the_same(
    make: Callable[[], HubTokenizer], template: Template, tmp_path: Path
) -> None:
    tokenizer = make()
    if make is stories and template.kind != "openbezoar":
        with pytest.raises(DataError, match=r"has no token|has no chat template"):
            save(tokenizer, template, tmp_path)
    else:
        save(tokenizer, template, tmp_path)


def test_a_template_with_marks_of_its_own_is_left_alone() -> None:
    assert marked(OWN_MARKS, end="</s>") == OWN_MARKS


def test_chats_without_plain_answers_are_written_as_before() -> None:
    plain, wrapped = tiny(CHATML_TEMPLATE), tiny(marked(CHATML_TEMPLATE, end="<|im_end|>"))
    chats: list[list[dict[str, Any]]] = [
        [{"role": "assistant", "content": "It speaks first."}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "system", "content": "S"}],
    ]
    for rows in chats:
        for opening in (True, False):
            texts = [
                apply_template(t.inner, rows, add_generation_prompt=opening)
                for t in (plain, wrapped)
            ]
            assert texts[0] == texts[1]
    parts = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
    listing = tiny("{% for m in messages %}{{ m.content }};{% endfor %}")
    inner = tiny(marked(str(listing.template), end="<|im_end|>")).inner
    texts = [t.apply_chat_template(parts, tokenize=False) for t in (listing.inner, inner)]
    assert texts[0] == texts[1]


def test_tool_calls_are_refused_rather_than_lost() -> None:
    tokenizer = tiny(CHATML_TEMPLATE)
    rows = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [1]},
    ]
    for template in (ChatML(), OpenBezoarTemplate()):
        inner = tiny(template.jinja(tokenizer)).inner
        with pytest.raises(Exception, match="no tool calls"):
            inner.apply_chat_template(rows, tokenize=False)
