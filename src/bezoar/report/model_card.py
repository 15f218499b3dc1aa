"""The card of a trained model, in the form the Hub reads."""

from dataclasses import replace
from typing import Any

from bezoar.chat.templates import ChatML, OpenBezoarTemplate
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Message
from bezoar.data.licences import LicenceTerms
from bezoar.evals.outcome import benchmark_of, trained_on
from bezoar.evals.stats import Score
from bezoar.flow.cache_key import ADAPTER_HOLDS, WHOLE_STACK
from bezoar.report.formatting import number, seconds, size
from bezoar.report.lineage import BASES, ancestors, base_model, licence, terms_of
from bezoar.report.markdown import bounds, render
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.training import objective, other_figures

EXAMPLE = "Explain in two sentences why the sky is blue."


def model_card(
    run: Run,
    stage: StageRecord,
    board: Scoreboard,
    *,
    folder: str = "",
    merged: bool | None = None,
    exported: bool = False,
) -> str:
    """README.md of a training stage; `folder` is where the model lies, seen from the card.

    `merged` says that it is a whole model and no adapter, by default as the stage wrote it;
    `exported` that it was written for other tools and checked.
    """
    merged = _wrote_model(stage) if merged is None else merged
    own = "model" if _wrote_model(stage) else "adapter"
    whole = exported or stage.key.get("parts", {}).get(ADAPTER_HOLDS) == WHOLE_STACK
    base, lineage = base_model(run, stage), ancestors(run, stage)
    terms = terms_of(run, lineage)
    trained = [step for step in lineage if step.category == "train"]
    models = run.resolved.get("models") or {}
    # The settings of the base as the lowest adapter was trained on it.
    base_fields = models.get(trained[0].inputs.get("model", "")) or {}
    template = run.resolved.get("template") or {}
    reference = next(iter(board.labels), "")
    return render(
        "model_card.md.j2",
        head=_head(run, stage, board, base, terms, merged=merged),
        run=run,
        stage=stage,
        trained=trained,
        objective=objective,
        base=base,
        base_fields=base_fields,
        packaged=base_fields.get("path") in BASES,
        merged=merged,
        whole=whole or merged,
        folder=folder or own,
        has_template=exported or stage.path(f"{own}/chat_template.jinja") is not None,
        settings=_settings(stage),
        figures=_figures(stage),
        template=template.get("kind", "unknown"),
        prompt=_example_prompt(template),
        reference=board.labels.get(reference),
        scores=[
            (named, _verdict(board, score, key, reference))
            for key, score, named in _scores(board, stage)
        ],
        terms=terms,
        trained_on=_trained_on(board, stage),
    )


def _head(
    run: Run,
    stage: StageRecord,
    board: Scoreboard,
    base: str,
    terms: dict[str, LicenceTerms],
    *,
    merged: bool,
) -> dict[str, Any]:
    english = all(term.english for term in terms.values())
    head: dict[str, Any] = {
        "license": licence(terms),
        **({"language": ["en"]} if english else {}),
        "base_model": base,
        "base_model_relation": "finetune" if merged else "adapter",
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["bezoar", objective(stage), *([] if merged else ["lora"])],
    }
    results = [
        _result(named)
        for key, score, named in _scores(board, stage)
        # a figure of items that were trained on is no result to be listed among others'
        if score.value is not None and not board.trained_on(key, score.name)
    ]
    if results:
        head["model-index"] = [{"name": f"{run.name}-{stage.name}", "results": results}]
    return head


def _trained_on(board: Scoreboard, stage: StageRecord) -> dict[str, str]:
    """Benchmark, with the stage that is not the first to measure it -> "trained on 20 of ..."."""
    sentences = trained_on(board.info(stage.name))
    for key in board.further.get(stage.name, []):
        apart = {benchmark_of(name) for name, model in board.cells if model == key}
        hits = trained_on(board.info(key)).items()
        sentences |= {
            f"{name}{key.removeprefix(stage.name)}": what for name, what in hits if name in apart
        }
    return sentences


def _wrote_model(stage: StageRecord) -> bool:
    """True if the stage wrote whole weights in place of an adapter."""
    return stage.path("model") is not None


def _scores(board: Scoreboard, stage: StageRecord) -> list[tuple[str, Score, Score]]:
    """(model key, score, the score under a name that says which evaluation it is of)."""
    keys = [stage.name, *board.further.get(stage.name, [])]
    cells = [(key, board.cells.get((name, key))) for name in board.benchmarks for key in keys]
    return [
        (key, score, replace(score, name=score.name + key.removeprefix(stage.name)))
        for key, score in cells
        if score
    ]


def _result(score: Score) -> dict[str, Any]:
    """A score in the Hub's form, which has no place for intervals but in the name."""
    dataset, _, metric = score.name.partition("/")
    failed = f", {score.num_failed} failed" if score.num_failed else ""
    name = f"{score.name}, 95 % interval {bounds(score)}, n {score.n}{failed}"
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": dataset, "type": dataset.lower().replace(" ", "_")},
        "metrics": [{"type": metric or "score", "name": name, "value": score.value}],
    }


def _verdict(board: Scoreboard, score: Score, key: str, reference: str) -> str:
    """How a score stands to the one of the first model."""
    difference = board.against(score.name, reference).get(key)
    return difference.verdict if difference else ""


def _settings(stage: StageRecord) -> dict[str, Any]:
    # These three stand in the first sentence of the card.
    shown_elsewhere = ("kind", "model", "rows")
    fields = stage.fields.items()
    return {key: value for key, value in fields if key not in shown_elsewhere and value is not None}


def _figures(stage: StageRecord) -> list[str]:
    numbers = [pair for pair in other_figures(stage) if isinstance(pair[1], int | float)]
    time, memory = stage.stats.get("seconds"), stage.stats.get("peak_memory_bytes")
    figures = [f"time {seconds(time)}", f"peak memory {size(memory)}"]
    return figures + [f"{name} {number(value)}" for name, value in numbers]


def _example_prompt(fields: dict[str, Any]) -> str:
    """What a prompt looks like in the recipe's template; empty if the tokenizer brings its own."""
    kind = fields.get("kind")
    if kind not in ("chatml", "hermes", "openbezoar"):
        return ""
    # without tools that of Hermes is ChatML
    system = str(fields.get("system") or "")
    template = OpenBezoarTemplate() if kind == "openbezoar" else ChatML(system)
    tokenizer = ByteTokenizer()
    # The first token differs by tokenizer and is mentioned in words.
    tokenizer.bos_id = None
    pieces = [*template.pieces((Message("user", EXAMPLE),), tokenizer), *template.opening()]
    return "".join(piece.text for piece in pieces)
