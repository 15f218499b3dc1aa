"""The scoreboard of a run, read from its finished evaluations."""

from dataclasses import fields

from bezoar.evals.outcome import joined, read_items, read_scores
from bezoar.evals.stats import Score
from bezoar.io import Row
from bezoar.references import seed_of
from bezoar.report.formatting import finite
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard


def load_scoreboard(run: Run) -> Scoreboard:
    """Read every finished evaluation; several stages of one model count as one."""
    board = Scoreboard(repeated=frozenset(stage.name for stage in run.repeats))
    if run.repeats:
        board.seeds[int(run.resolved.get("seed") or 0)] = board
        for seed in run.further_seeds:
            board.seeds[seed] = load_scoreboard(run.with_seed(seed))
    for stage in run.of("evaluate"):
        if stage.folder is None or not stage.path("scores.json"):
            continue
        facts = read_scores(stage.folder, lenient=True)
        model = facts["model"] or stage.inputs.get("model", stage.name)
        if stage.seed is not None:  # a repeat measures the model of its seed
            model, facts["label"] = seed_of(model)[0], ""
        board.labels.setdefault(model, str(facts.get("label") or model))
        known = board.facts.get(model, {})
        info = joined(known.get("info") or {}, facts["info"] or {})
        board.facts[model] = {**known, **facts, "info": info}
        _add_scores(board, model, [read_score(row) for row in facts["scores"] or []])
        _add_items(board, model, read_items(stage.folder, lenient=True))
    return board


def read_score(row: Row) -> Score:
    """A score of scores.json, of which unknown keys are ignored and what is no number is None."""
    # Scores of other versions have keys that we do not know; they are no reason to fail.
    known = {f.name: row[f.name] for f in fields(Score) if f.name in row}
    known |= {key: finite(row.get(key)) for key in ("value", "low", "high")}
    known |= {key: round(finite(row.get(key)) or 0) for key in ("n", "num_failed")}
    texts = {key: str(row.get(key) or "") for key in ("group", "reason")}
    known |= texts | {"name": str(row.get("name", "score"))}
    return Score(**known)


def _add_scores(board: Scoreboard, model: str, scores: list[Score]) -> None:
    # A score with a group is a part of another only if that other is there: a harness names a
    # group of tasks without a score over all of them.
    over_all = {score.name for score in scores if not score.group}
    for score in scores:
        if score.group and score.name in over_all:
            board.parts.setdefault((score.name, model), {})[score.group] = score
        else:
            board.cells[score.name, model] = score


def _add_items(board: Scoreboard, model: str, items: list[Row]) -> None:
    for row in items:
        # Items without a value failed; they are counted in the score and take no part in tests.
        value, cell = finite(row.get("value")), (str(row.get("benchmark")), model)
        if value is not None:
            board.items.setdefault(cell, {})[str(row.get("id"))] = value
        if "answers" in row:
            board.answers.setdefault(model, []).append(row)
