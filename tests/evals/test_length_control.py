"""AlpacaEval 2's length-controlled win rate against the same model fitted without scikit-learn."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bezoar.errors import DataError
from bezoar.evals.answer_files import rescored
from bezoar.evals.length_control import NAME, UNREGULARISED
from tests.helpers.command import bezoar, refused

pytest.importorskip("sklearn")
NUM = 40


def annotations(num: int = NUM, **more: Any) -> list[dict[str, Any]]:
    """The model writes longer answers, and wins where it does."""
    rng, rows = np.random.default_rng(4), []
    for n in range(num):
        longer = int(rng.integers(-40, 120))
        chance = 1 / (1 + math.exp(-(longer - 30) / 40))
        preference = 1 + float(np.clip(chance + rng.normal() * 0.2, 0, 1))
        row = {"instruction": f"Question {n}?", "output_1": "b" * 100, "generator_1": "baseline"}
        row |= {"output_2": "m" * (100 + longer), "generator_2": "mine", "preference": preference}
        rows.append({**row, **more})
    rows[3]["preference"] = None
    rows[4]["preference"] = 0
    return rows


def gamed(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    rng, rows = np.random.default_rng(5), []
    hard = rng.normal(size=NUM)
    for model, sign in (("concise", 1.0), ("verbose", -1.0)):
        for n in range(NUM):
            gap = float(sign + rng.normal() * 0.3)
            chance = 1 / (1 + math.exp(gap - hard[n]))
            row = {"model": model, "index": n, "preference": chance, "std_delta_len": gap}
            rows.append({**row, "instruction_difficulty": hard[n], "not_gamed_baseline": False})
    rows[7]["preference"] = ""
    with (folder / "df_gamed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "df_gamed.csv", rows


def fit(x: Any, p: Any, w: Any, c: float) -> Any:
    """min |b|_1 + C sum of weighted log-losses, with b = u - v, u and v at least 0."""
    from scipy.optimize import minimize

    k = x.shape[1]

    def objective(uv: Any) -> tuple[float, Any]:
        z = x @ (uv[:k] - uv[k:])
        value = uv.sum() + c * (w * (np.logaddexp(0, z) - p * z)).sum()
        slope = c * x.T @ (w * (1 / (1 + np.exp(-z)) - p))
        return value, np.concatenate([1 + slope, 1 - slope])

    bounds = [(0, None)] * (2 * k)
    found = minimize(objective, np.zeros(2 * k), jac=True, bounds=bounds, options={"maxiter": 5000})
    return found.x[:k] - found.x[k:]


def plain(rows: list[dict[str, Any]], more: list[dict[str, Any]] | None) -> float:
    from sklearn.model_selection import GroupKFold

    gap = np.array([len(r["output_1"]) - len(r["output_2"]) for r in rows], dtype=float)
    pull = np.tanh(gap / math.sqrt(((gap - gap.mean()) ** 2).sum() / (len(gap) - 1)))
    hard = np.array([more[n]["instruction_difficulty"] if more else 0.0 for n in range(len(rows))])
    x = np.stack([pull, hard, np.ones(len(rows))], 1)
    test = x * (0, 1, 1)
    p = np.array(
        [np.nan if r["preference"] is None else (r["preference"] or 1.5) - 1 for r in rows]
    )
    w = np.ones(len(rows))
    if more:
        theirs = [[math.tanh(r["std_delta_len"]), r["instruction_difficulty"], 0.0] for r in more]
        x, w = np.concatenate([x, theirs]), np.concatenate([w, np.full(len(more), 0.1)])
        p = np.concatenate([p, [float(r["preference"] or "nan") for r in more]])
    else:
        x, test = x[:, [0, 2]], test[:, [0, 2]]
    known = ~np.isnan(p)
    x, p, w = x[known], p[known], w[known]
    best, folds = (math.inf, 0.0), list(GroupKFold(5).split(x, groups=np.arange(len(x))))
    for c in np.logspace(-4, 4, 10):
        losses = []
        for train, held in folds:
            z = x[held] @ fit(x[train], p[train], w[train], c)
            losses.append((w[held] * (np.logaddexp(0, z) - p[held] * z)).mean())
        best = min(best, (float(np.mean(losses)), float(c)))
    return float((1 / (1 + np.exp(-(test @ fit(x, p, w, best[1]))))).mean())


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "annotations.json").write_text(json.dumps(rows))
    return folder / "annotations.json"


def test_the_published_model_is_fitted(tmp_path: Path) -> None:
    path, more = gamed(tmp_path)
    rows = annotations()
    found = rescored(written(tmp_path, rows), path)
    assert found is not None
    raw, ours, controlled = found.scores
    assert (raw.name, ours.name, controlled.name) == (
        "win rate",
        "win rate/length-adjusted (ours)",
        NAME,
    )
    assert (controlled.n, controlled.num_failed) == (NUM - 1, 1)
    assert controlled.value == pytest.approx(plain(rows, more), abs=2e-3)
    assert raw.value is not None
    assert controlled.value is not None
    assert controlled.value < raw.value - 0.05  # the wins were bought with length
    assert controlled.low is not None
    assert controlled.high is not None
    assert controlled.low < controlled.value < controlled.high


def test_without_the_rows_it_has_another_name_and_value(tmp_path: Path) -> None:
    path, _ = gamed(tmp_path)
    rows = annotations()
    found, regular = rescored(written(tmp_path, rows)), rescored(written(tmp_path, rows), path)
    assert found is not None
    assert regular is not None
    assert found.scores[2].name == UNREGULARISED
    assert found.scores[2].value == pytest.approx(plain(rows, None), abs=2e-3)
    assert found.scores[2].value != pytest.approx(regular.scores[2].value, abs=2e-3)


def test_the_order_of_rows_is_free_where_they_have_numbers(tmp_path: Path) -> None:
    path, _ = gamed(tmp_path)
    rows = [{**row, "index": n} for n, row in enumerate(annotations())]
    first = rescored(written(tmp_path, rows), path)
    second = rescored(written(tmp_path, rows[::-1]), path)
    assert first is not None
    assert second is not None
    # other folds may choose another penalty, but no instruction gets another's difficulty
    assert first.scores[2].value == pytest.approx(second.scores[2].value, abs=0.01)


def test_a_model_against_itself_and_too_few_rows(tmp_path: Path) -> None:
    same = rescored(written(tmp_path, annotations(generator_2="baseline")))
    assert same is not None
    assert same.scores[2].value == 0.5
    assert "the model is the baseline" in same.scores[2].reason
    few = rescored(written(tmp_path, annotations(5)))
    assert few is not None
    assert few.scores[2].value is None
    assert "fewer than 5" in few.scores[2].reason
    # two models in one file: there is no length control of both at once
    rows = annotations(12) + annotations(12, generator_2="other")
    both = rescored(written(tmp_path, rows))
    assert both is not None
    assert len(both.scores) == 2


def test_a_side_that_always_wins_is_a_number(tmp_path: Path) -> None:
    found = rescored(written(tmp_path, annotations(20, preference=2.0)), gamed(tmp_path)[0])
    assert found is not None
    assert found.scores[2].value is not None
    assert found.scores[2].value > 0.8


def test_faults_name_file_and_line(tmp_path: Path) -> None:
    path, _ = gamed(tmp_path)
    far = written(tmp_path, [{**row, "index": 900 + n} for n, row in enumerate(annotations())])
    with pytest.raises(DataError, match="know no instruction 900"):
        rescored(far, path)
    (tmp_path / "bad.csv").write_text("index,preference\n0,1\n")
    with pytest.raises(DataError, match=r"bad\.csv:2: the row has no column 'not_gamed_baseline'"):
        rescored(written(tmp_path, annotations()), tmp_path / "bad.csv")
    grade = {"question_id": 81, "model": "m", "turn": 1, "judgment": "[[5]]", "score": 5}
    (tmp_path / "grades.jsonl").write_text(json.dumps(grade) + "\n")
    with pytest.raises(DataError, match="--regularisation has no effect"):
        rescored(tmp_path / "grades.jsonl", path)


def test_the_command_takes_the_rows(tmp_path: Path) -> None:
    path, _ = gamed(tmp_path)
    file = written(tmp_path, annotations())
    assert NAME in bezoar("eval", file, "--regularisation", path, "--out", tmp_path / "out")
    said = refused("eval", "smollm2-135m-instruct", "--regularisation", path)
    assert "--regularisation is for annotations of AlpacaEval" in said
