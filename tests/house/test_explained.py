"""Every recipe key and kind explains itself."""

from pathlib import Path

import pytest

from bezoar.flow.explain import Kind, all_kinds
from bezoar.flow.yaml_document import read_yaml
from bezoar.flow.yaml_loader import build


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: f"{kind.category}-{kind.name}")
def test_a_kind_explains_itself(kind: Kind, tmp_path: Path) -> None:
    assert kind.summary.endswith("."), "the docstring begins with one sentence"
    assert not [key.name for key in kind.keys if not key.text], "keys without a text below them"
    if kind.category == "settings":
        return
    path = tmp_path / "example.yaml"
    path.write_text(kind.example, encoding="utf-8")
    value, lines = read_yaml(path)
    assert value is not None, "the docstring has a line Example:"
    built = build(kind.cls, value, path=path, lines=lines)
    assert getattr(built, "kind", kind.name) in (kind.name, "jsonl")
