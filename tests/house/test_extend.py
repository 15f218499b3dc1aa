"""The examples of docs/extend.md are code that runs."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bezoar.chat.types import Chat, Message
from bezoar.cost import exactly
from bezoar.evals.outcome import EvalContext
from bezoar.evals.section import Section
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
CHAT = Chat("a", (Message("user", "Say hi."), Message("assistant", "hi")))
EXAMPLES = dict(
    re.findall(r"```python\n# src/bezoar/[\w/]+/(\w+)\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
)


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The one class of the example `name`, as if its file were there."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(EXAMPLES[name], f"{name}.py", "exec"), module.__dict__)
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    (component,) = (value for value in classes if value.__module__ == name)
    return component


def ask(requests: list[Request]) -> list[Reply]:
    return [Reply("two words") for _ in requests]


def test_every_section_has_an_example() -> None:
    assert list(EXAMPLES) == ["apo", "restate", "no_links", "glossary", "program", "brevity"]


def test_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tests.helpers.two_pairs import terms

    found = terms(example("apo", monkeypatch)(beta=1.0))
    # log-ratios of the pairs: (1.5, -0.5) and (1, -1)
    by_hand = 1 - torch.sigmoid(torch.tensor([1.5, 1])) + torch.sigmoid(torch.tensor([-0.5, -1]))
    assert torch.allclose(found.loss, by_hand)


def test_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = example("restate", monkeypatch)("seeds", "teacher")
    (row,) = scheme.generate([CHAT], ask, seed=0).rows
    assert (row.id, row.answer) == ("restate-a", "two words")
    assert scheme.quote({"seeds": exactly(3)}).requests[0][1].num.low == 3


def test_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Chat("b", (Message("user", "Where?"), Message("assistant", "https://example.org")))
    sifted = example("no_links", monkeypatch)("rows").sift([CHAT, link])
    assert [row.id for row in sifted.rows] == ["a"]
    assert [(row.id, row.reason) for row in sifted.dropped] == [("b", "links")]


def test_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"term": "epoch", "field": "training", "meaning": "2"}\n')
    (row,) = example("glossary", monkeypatch)("rows.jsonl").below(tmp_path).load().rows
    assert (row.prompt[0].content, row.answer) == ("What does epoch mean in training?", "2")


def test_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = example("program", monkeypatch)(("tr", "a-z", "A-Z")).open()
    ((answer,),) = backend.answer([Request((Message("user", "hi"),))])
    assert answer == (0, Reply("HI"))


def test_the_evaluation_section(monkeypatch: pytest.MonkeyPatch) -> None:
    section = example("brevity", monkeypatch)("held-out")
    assert isinstance(section, Section)
    context = EvalContext(
        template=None,  # type: ignore[arg-type]
        open_model=lambda name: None,
        ask_model=lambda name: ask,  # type: ignore[arg-type, return-value]
        ask=lambda name: ask,  # type: ignore[arg-type, return-value]
        rows=lambda name: [CHAT],
        progress=Progress("s"),
    )
    outcome = section.run("m", context, lambda name, make: make())
    assert (outcome.scores[0].value, outcome.items[0]["id"]) == (2.0, "a")
