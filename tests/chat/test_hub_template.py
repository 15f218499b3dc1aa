"""Templates of strangers: the same text as transformers gives, and none that does not end."""

import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from bezoar.chat import template_process
from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import HubTemplate
from bezoar.chat.types import Message
from bezoar.errors import DataError
from tests.helpers.known_tokenizers import CHATML_TEMPLATE, tiny

ROWS = [
    {"role": "user", "content": "é 😀 <b> {{ 1 }}\n"},
    {"role": "assistant", "content": "Yes\ud800."},
    {"role": "user", "content": " Go on "},
]
TEMPLATES = {
    "chatml": CHATML_TEMPLATE,
    "json": "{{ messages | tojson(indent=2) }}{{ bos_token }}{{ eos_token }}{{ tools is none }}",
    "loop controls": (
        "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{{ m.content }}{%"
        " endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}\n{%"
        " endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor"
        " %}{{ ns.n }}{{ add_generation_prompt }}"
    ),
    "date": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_transformers(name: str) -> None:
    inner = tiny(TEMPLATES[name]).inner
    for opening in (True, False):
        assert apply_template(
            inner, ROWS, add_generation_prompt=opening
        ) == inner.apply_chat_template(ROWS, tokenize=False, add_generation_prompt=opening)
    if name == "chatml":
        assert apply_template(
            inner, ROWS, add_generation_prompt=False, continue_final_message=True
        ) == inner.apply_chat_template(ROWS, tokenize=False, continue_final_message=True)


ENDLESS = {
    "took more than 512 MiB of memory": "{{ 'a' * 10**10 }}",
    "took more than 512 MiB of memory ": (
        "{% set ns = namespace(x='aaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{%"
        " endfor %}"
    ),
    "took more than 512 MiB of memory  ": "{{ 'a' | center(10**10) }}",
    "wrote 20000000 characters": "{{ 'a' * (2 * 10**7) }}",
    "maximum recursion depth": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
    "maximum recursion depth ": "{{ " + "(" * 10**5 + "1" + ")" * 10**5 + " }}",
    "Range too big": "{% for i in range(10**9) %}{% endfor %}",
    "unexpected": "{% for",
}


@pytest.mark.parametrize("told", ENDLESS)
def test_a_template_without_bounds_is_stopped(told: str) -> None:
    tokenizer = tiny(ENDLESS[told])
    tokenizer.inner.name_or_path = "/models/strange"
    with pytest.raises(DataError, match=told.strip()) as error:
        HubTemplate().prompt((Message("user", "Hi"),), tokenizer)
    assert str(error.value).startswith("template hub: the chat template of /models/strange ")
    assert str(error.value).isprintable()
    # the next one is applied
    assert apply_template(tiny().inner, ROWS[:1], add_generation_prompt=False).startswith(
        "<|im_start|>user\né"
    )


def test_a_template_that_loops_is_stopped_within_seconds_in_any_thread() -> None:
    loops = (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor"
        " %}{% endfor %}{% endfor %}"
    )
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(apply_template, tiny(loops).inner, ROWS, add_generation_prompt=True)
        after = threads.submit(apply_template, tiny().inner, ROWS, add_generation_prompt=True)
        with pytest.raises(DataError, match="was stopped, for it took more than 2 s of computing"):
            stuck.result(timeout=60)
        assert after.result(timeout=60).endswith("<|im_start|>assistant\n")
    assert time.monotonic() - started < 60


def _in_a_fork(content: str) -> str:
    return apply_template(
        tiny().inner, [{"role": "user", "content": content}], add_generation_prompt=False
    )


def test_forked_processes_do_not_mix_their_replies() -> None:
    words = [f"word {n}" for n in range(40)]
    assert "word" in _in_a_fork("word")
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        found = list(pool.map(_in_a_fork, words))
    assert found == [f"<|im_start|>user\n{word}<|im_end|>\n" for word in words]
    assert "more" in _in_a_fork("more")


def test_no_secret_is_in_the_process_of_the_template() -> None:
    os.environ["A_SECRET_KEY"] = "sk-not-for-templates"
    try:
        template_process._process.stop()
        _in_a_fork("a new process")
        pid = template_process._process.child.pid
        assert b"sk-not-for-templates" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        del os.environ["A_SECRET_KEY"]
    template_process._process.stop()
    assert not Path(f"/proc/{pid}").exists()
