"""The scoreboard of a run, read from its finished evaluations."""

from dataclasses import fields

from bezoar.evals.comparison import condition
from bezoar.evals.outcome import benchmark_of, joined, read_items, read_scores, trained_on
from bezoar.evals.stats import Score
from bezoar.io import Row, canonical
from bezoar.references import seed_of
from bezoar.report.formatting import finite
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard


def load_scoreboard(run: Run) -> Scoreboard:
    """Read every finished evaluation; several stages of one model count as one.

    What a later stage measured on the same benchmark under other conditions stands beside the
    first as "MODEL (STAGE)"; what nothing was trained on comes first.
    """
    board = Scoreboard(repeated={stage.name for stage in run.repeats})
    if run.repeats:
        board.seeds[int(run.resolved.get("seed") or 0)] = board
        for seed in run.further_seeds:
            board.seeds[seed] = load_scoreboard(run.with_seed(seed))
    evaluations: dict[str, list[tuple[StageRecord, Row]]] = {}
    for stage in run.of("evaluate"):
        if stage.folder is None or not stage.path("scores.json"):
            continue
        facts = read_scores(stage.folder, lenient=True)
        model = facts["model"] or stage.inputs.get("model", stage.name)
        if stage.seed is not None:  # a repeat measures the model of its seed
            model, facts["label"] = seed_of(model)[0], ""
        evaluations.setdefault(model, []).append((stage, facts))
    # of all models alike, so that each leads with the same items
    hits = {
        measured
        for own in evaluations.values()
        for _, facts in own
        for measured in _measured(facts)
        if benchmark_of(measured[0]) in trained_on(facts["info"] or {})
    }
    for model, own in evaluations.items():
        for stage, facts in sorted(own, key=lambda each: bool(hits & _measured(each[1]))):
            _add(board, model, stage, facts)
    return board


def _names(facts: Row) -> list[str]:
    return [str(row.get("name", "score")) for row in facts["scores"] or []]


def _measured(facts: Row) -> set[tuple[str, str]]:
    """(benchmark, condition) of each score."""
    return {(name, canonical(condition(facts["info"] or {}, name))) for name in _names(facts)}


def _add(board: Scoreboard, model: str, stage: StageRecord, facts: Row) -> None:
    """Take in an evaluation; scores that the model has under other conditions get a row apart."""
    label = str(facts.get("label") or model)
    info, known = facts["info"] or {}, board.info(model)
    scores = [read_score(row) for row in facts["scores"] or []]
    items = read_items(stage.folder, lenient=True) if stage.folder else []
    apart = {
        name
        for name in _names(facts)
        if (name, model) in board.cells and condition(info, name) != condition(known, name)
    }
    if apart:
        further, own = f"{model} ({stage.name})", f"{board.labels[model]} ({stage.name})"
        board.further.setdefault(model, []).append(further)
        if model in board.repeated:
            board.repeated.add(further)
        board.labels[further], board.facts[further] = own, facts
        _add_scores(board, further, [score for score in scores if score.name in apart])
        _add_items(board, further, [row for row in items if str(row.get("benchmark")) in apart])
        scores = [score for score in scores if score.name not in apart]
        items = [row for row in items if str(row.get("benchmark")) not in apart]
    board.labels.setdefault(model, label)
    info = joined(info, known) if apart else joined(known, info)
    board.facts[model] = {**board.facts.get(model, {}), **facts, "info": info}
    _add_scores(board, model, scores)
    _add_items(board, model, items)


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
