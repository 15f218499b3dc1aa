"""The card of a trained model, in the form the Hub reads."""

from typing import Any

from bezoar.chat.templates import ChatML, OpenBezoarTemplate
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Message
from bezoar.data.licences import LicenceTerms
from bezoar.evals.stats import Score
from bezoar.report import markdown as md
from bezoar.report.formatting import count, failures, number, seconds, size
from bezoar.report.lineage import BASES, ancestors, base_model, licence, terms_of
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.training import COLUMNS, objective

EXAMPLE = "Explain in two sentences why the sky is blue."
LIMITS = """\
- Small models state false things with confidence, follow instructions unevenly and may loop.
- The preferences it was tuned on are those of its data; it has had no safety review. Do not \
use it where a wrong answer does harm.
- The scores are those of this run's benchmarks alone; mind n and the intervals.
"""


def model_card(run: Run, stage: StageRecord, board: Scoreboard) -> str:
    """README.md of a training stage."""
    base = base_model(run, stage)
    line_of = ancestors(run, stage)
    terms = terms_of(run, line_of)
    trained = [s for s in line_of if s.category == "train"]
    title = f"{run.name}: {stage.name}"
    merged = stage.path("model") is not None
    parts = [
        md.front_matter(_head(run, stage, board, base=base, terms=terms)),
        f"# {md.words(title)}\n",
        (
            f"{md.words(base)}, trained by {md.words(objective(stage))} on the rows of"
            f" {md.words(stage.inputs.get('rows', 'unknown'))}, in the bezoar run"
            f" {md.words(run.name)}.\n"
        ),
        "## How it was made\n",
        md.table(
            [
                "Stage",
                "Objective",
                "Rows",
                "Trained tokens",
                "First loss",
                "Last loss",
                "Best validation",
            ],
            [_step(s) for s in trained],
        ),
        _settings(stage),
        "## Use\n",
        _use(run, stage, trained, base=base, merged=merged),
        "## Scores\n",
        _scores(board, stage),
        "## Terms\n",
        "".join(f"- {md.words(name)}: {t.licence}. {t.note}\n" for name, t in terms.items()),
        "## Limits\n",
        LIMITS,
    ]
    return "\n".join(parts)


def _head(
    run: Run, stage: StageRecord, board: Scoreboard, *, base: str, terms: dict[str, LicenceTerms]
) -> dict[str, Any]:
    merged = stage.path("model") is not None
    head: dict[str, Any] = {
        "license": licence(terms),
        **({"language": ["en"]} if all(t.english for t in terms.values()) else {}),
        "base_model": base,
        "base_model_relation": "finetune" if merged else "adapter",
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["bezoar", objective(stage), *([] if merged else ["lora"])],
    }
    results = [
        _result(name, score)
        for name, score in _own(board, stage).items()
        if score.value is not None
    ]
    if results:
        head["model-index"] = [{"name": f"{run.name}-{stage.name}", "results": results}]
    return head


def _own(board: Scoreboard, stage: StageRecord) -> dict[str, Score]:
    return {
        name: board.cells[name, stage.name]
        for name in board.benchmarks
        if (name, stage.name) in board.cells
    }


def _result(name: str, score: Score) -> dict[str, Any]:
    data, _, metric = name.partition("/")
    told = f"{name}, 95 % interval {_bounds(score)}, n {score.n}" + (
        f", {score.num_failed} failed" if score.num_failed else ""
    )
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": data, "type": data.lower().replace(" ", "_")},
        "metrics": [{"type": metric or "score", "name": told, "value": score.value}],
    }


def _bounds(score: Score) -> str:
    return (
        f"{number(score.low)} to {number(score.high)}"
        if score.low is not None and score.high is not None
        else "not known"
    )


def _step(stage: StageRecord) -> list[str]:
    s = stage.stats
    return [
        stage.name,
        objective(stage),
        count(s.get("rows_trained")),
        count(s.get("trained_tokens")),
        number(s.get("first_loss")),
        number(s.get("last_loss")),
        number(s.get("best_validation_loss")),
    ]


def _settings(stage: StageRecord) -> str:
    """The stage's settings and figures as one list."""
    import json

    own = {
        k: v
        for k, v in stage.fields.items()
        if k not in ("kind", "model", "rows") and v is not None
    }
    lines = [
        f"- {md.words(name)}:"
        f" `{json.dumps(md.clean(value), ensure_ascii=False).replace('`', chr(39))}`\n"
        for name, value in own.items()
    ]
    figures = [
        f"time {seconds(stage.stats.get('seconds'))}",
        f"peak memory {size(stage.stats.get('peak_memory_bytes'))}",
    ]
    figures += [
        f"{name.replace('_', ' ')} {number(v)}"
        for name, v in stage.stats.items()
        if name not in COLUMNS and isinstance(v, (int, float))
    ]
    return (
        "Settings of the last stage:\n\n"
        + "".join(lines)
        + f"\nFigures: {md.words('; '.join(figures), 600)}.\n"
    )


def _use(
    run: Run, stage: StageRecord, trained: list[StageRecord], *, base: str, merged: bool
) -> str:
    shown = f"`bezoar chat RUN_DIRECTORY --model {stage.name}` talks to it."
    if merged:
        return f"{shown} The folder `model` opens with transformers.\n\n{_prompt(run)}"
    names = [s.name for s in trained]
    folders = [
        f"../{s.folder.name}/adapter" if s.folder and s is not stage else "adapter" for s in trained
    ]
    loads = [f"net = PeftModel.from_pretrained(net, {folders[0]!r}, adapter_name={names[0]!r})"]
    loads += [
        f"net.load_adapter({folder!r}, adapter_name={name!r})"
        for folder, name in zip(folders[1:], names[1:], strict=True)
    ]
    code = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"net = AutoModelForCausalLM.from_pretrained({base!r})",
        *loads,
        f"net.base_model.set_adapter({names!r})",
    ]
    many = (
        f" The model is the base and {len(names)} adapters on it, all active; this folder holds the"
        " last one."
        if len(names) > 1
        else ""
    )
    text = f"{shown}{many}{_held(run, trained[0])}"
    return f"{text}\n\n{md.fence(chr(10).join(code), 'python')}\n{_prompt(run)}"


def _held(run: Run, lowest: StageRecord) -> str:
    """How the base was held while the adapters were trained, where that differs from its weights on
    the Hub."""
    fields = (run.resolved.get("models") or {}).get(lowest.inputs.get("model", "")) or {}
    told = (
        " The adapters were trained on the base in NF4, 4 bits a weight."
        if fields.get("quantize") == "nf4"
        else ""
    )
    packaged = (
        " This run's base came from a 4-bit file of the same model, so its weights differ a little"
        " from those on the Hub."
    )
    return told + (packaged if fields.get("path") in BASES else "")


def _prompt(run: Run) -> str:
    """The template and what a prompt looks like in it."""
    fields = run.resolved.get("template") or {}
    kind = fields.get("kind", "unknown")
    if kind not in ("chatml", "openbezoar"):
        return f"Prompts are written in the template `{md.words(kind)}`" + (
            ", the one that comes with the tokenizer.\n" if kind == "hub" else ".\n"
        )
    template = ChatML(str(fields.get("system") or "")) if kind == "chatml" else OpenBezoarTemplate()
    tokenizer = ByteTokenizer()
    tokenizer.bos_id = None
    pieces = [*template.pieces((Message("user", EXAMPLE),), tokenizer), *template.opening()]
    return (
        f"Prompts are written in the template `{kind}`, behind the tokenizer's first token where it"
        " has one:\n\n" + md.fence("".join(piece.text for piece in pieces))
    )


def _scores(board: Scoreboard, stage: StageRecord) -> str:
    own = _own(board, stage)
    if not own:
        return "This model has not been scored in the run.\n"
    first = next(iter(board.labels))
    rows = []
    for name, score in own.items():
        gap = board.against(name, first).get(stage.name) if (name, first) in board.cells else None
        told = (
            ""
            if gap is None
            else (
                "better"
                if gap.distinguishable and (gap.value > 0) == score.higher_is_better
                else "worse"
                if gap.distinguishable
                else "not distinguishable"
            )
        )
        rows.append(
            (
                name,
                number(score.value),
                _bounds(score),
                count(score.n),
                failures(score.num_failed, score.n),
                told,
            )
        )
    return md.table(
        [
            "Benchmark",
            "Value",
            "95 % interval",
            "n",
            "Failed",
            f"Against {md.words(board.labels[first])}",
        ],
        rows,
    )
