"""Runs side by side, and the refusal to mix what was measured differently."""

import json
from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.evals.leaderboard import leaderboard, paired_tests, read_entries, strengths
from bezoar.evals.stats import score


def make(run: Path, model: str, values: list[float], condition: str, **more: str) -> None:
    folder = run / f"01-eval-{model}"
    folder.mkdir(parents=True)
    scores = [score("quiz/acc", values, "quiz").to_dict(), score("odd", values).to_dict()]
    info = {"lm_eval": {"conditions": {"quiz/": {"judge": condition, "items": "1", **more}}}}
    (folder / "scores.json").write_text(
        json.dumps({"model": model, "scores": scores, "info": info})
    )
    items = [{"benchmark": "quiz/acc", "id": str(i), "value": v} for i, v in enumerate(values)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def test_models_are_ranked_and_told_apart_only_with_evidence(tmp_path: Path) -> None:
    make(tmp_path / "a", "weak", [0.0, 1.0] * 30, "same")
    make(tmp_path / "b", "strong", [1.0] * 59 + [0.0], "same")
    make(tmp_path / "b", "strong2", [0.0] + [1.0] * 59, "same")
    make(tmp_path / "c", "else", [1.0] * 60, "other judge")
    entries = read_entries([tmp_path / name for name in "abc"])
    tables = [t for t in leaderboard(entries) if t.benchmark == "quiz/acc"]
    alike, alone = tables
    assert [name for name, _ in alike.lines][-1] == "a/weak"
    assert alike.verdict("a/weak") == "worse"
    assert alike.verdict("b/strong2") == "not distinguishable"
    assert [name for name, _ in alone.lines] == ["c/else"]
    assert (alike.apart, alone.apart) == ("", "not in one table with a/weak: they differ in judge")
    assert all(len(t.lines) == 1 for t in leaderboard(entries) if t.benchmark == "odd")
    with pytest.raises(RecipeError, match="no finished evaluation"):
        read_entries([tmp_path])


def test_only_what_was_measured_alike_is_tested(tmp_path: Path) -> None:
    make(tmp_path / "a", "one", [0.0, 1.0] * 30, "same")
    make(tmp_path / "a", "two", [1.0] * 60, "same")
    make(tmp_path / "a", "three", [1.0] * 60, "other", template="chatml")
    one, three, two = read_entries(
        [tmp_path / "a" / f"01-eval-{name}" for name in ("one", "three", "two")]
    )
    (found,), told = paired_tests(one, two)
    assert (found.name, found.verdict, found.n) == ("quiz/acc", "better", 60)
    assert told == ["odd is not compared: what one of them depends on was not written down."]
    with pytest.raises(RecipeError, match="differ in judge, template"):
        paired_tests(one, three)


def test_three_models_rank_by_their_win_rates(tmp_path: Path) -> None:
    for name, wins in (("a", 0.75), ("b", 0.25), ("c", 1.0)):
        # base has the same answers in both runs
        folder = tmp_path / ("q" if name == "b" else "r") / f"01-{name}"
        folder.mkdir(parents=True)
        facts = {
            "against": "base",
            "conditions": {
                "win rate": {"judge": "j" if name != "c" else "k", "answers of the other": "0f"}
            },
        }
        (folder / "scores.json").write_text(
            json.dumps({"model": name, "scores": [], "info": {"win_rate": facts}})
        )
        items = [
            {"benchmark": "win rate", "id": str(i), "value": float(i < 8 * wins)} for i in range(8)
        ]
        (folder / "items.jsonl").write_text(
            "".join(
                json.dumps(item) + "\n" for item in [*items, {**items[0], "id": "x", "value": None}]
            )
        )
    ranked = strengths(read_entries([tmp_path / "r", tmp_path / "q"]))
    assert [s.name for s in ranked] == ["r/a", "r/base", "q/b"]
    assert ranked[0].value == pytest.approx(-(ranked[2].value or 0), abs=1e-6)
    assert strengths(read_entries([tmp_path / "r"])[:1]) == []
