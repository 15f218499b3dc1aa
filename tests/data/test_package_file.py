"""Files of other Python packages."""

import sys
from pathlib import Path

import pytest

from bezoar.data.files import locate_file
from bezoar.errors import RecipeError


def test_a_file_of_a_package_is_found_and_no_code_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_items" / "data").mkdir(parents=True)
    (tmp_path / "some_items" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "some_items" / "data" / "rows.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    file = locate_file("package:some_items/data/rows.json", Path(), "stages.a.path")
    assert file == tmp_path / "some_items" / "data" / "rows.json"
    assert "some_items" not in sys.modules
    for ref, fault in {
        "package:some_items/none.json": "the package some_items has no file none.json; check",
        "package:no_such/rows.json": "stages.a.path: no package no_such is installed; install it",
        "package:some_items.data/rows.json": "no package some_items.data is installed",
        "package:": "no package",
    }.items():
        with pytest.raises(RecipeError, match=fault):
            locate_file(ref, Path(), "stages.a.path")
