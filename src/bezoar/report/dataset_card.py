"""The card of a generated set, in the form the Hub reads."""

from pathlib import Path
from typing import Any

from bezoar.parquet import open_parquet
from bezoar.report import markdown as md
from bezoar.report.formatting import count, percent, seconds, usd
from bezoar.report.lineage import ancestors, backends, licence, terms_of
from bezoar.report.rows import read_rows
from bezoar.report.run import Run, StageRecord
from bezoar.report.sections.bill import cost_per_row, total

NUM_SAMPLES = 3
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
LIMITS = """\
- The answers were written by a language model and no person has checked them: some are wrong.
- A judge that accepts a row is a model too. Its verdicts are one opinion, not a proof of quality.
- Near-duplicates of public benchmarks are removed only where the recipe has a stage for it.
"""


def dataset_card(run: Run, stage: StageRecord) -> str:
    """README.md of a scheme's or filter's set."""
    line_of = ancestors(run, stage)
    terms = terms_of(run, line_of)
    stored = stage.path("rows.parquet")
    kept = read_rows(stored, NUM_SAMPLES) if stored else None
    title = f"{run.name}: {stage.name}"
    asked = ", ".join(
        dict.fromkeys(f"{role} {model}" for (role, _), model in backends(run, line_of).items())
    )
    parts = [
        md.front_matter(
            _head(
                run,
                stage,
                title,
                licence(terms),
                all(t.english for t in terms.values()) and bool(terms),
            )
        ),
        f"# {md.words(title)}\n",
        (
            f"{count(stage.count('rows_out'))} rows, made by bezoar in the run {md.words(run.name)}"
            f" ({md.words(asked) or 'no language model'}).\n"
        ),
        "## How it was made\n",
        md.table(["Stage", "Work", "Read", "Kept", "Left out"], [_step(s) for s in line_of]),
        "## What was left out\n",
        _dropped(stage),
        "## What it cost\n",
        _cost(run, stage),
        "## Columns\n",
        _columns(stage),
        "## Sample rows\n",
        (
            "\n".join(md.fence(md.row_text(row)) for row in kept.samples)
            if kept and kept.samples
            else "The set is empty.\n"
        ),
        "## Terms\n",
        _terms(terms),
        "## Limits\n",
        LIMITS,
    ]
    return "\n".join(parts)


def _head(
    run: Run, stage: StageRecord, title: str, licence_id: str, english: bool
) -> dict[str, Any]:
    num = stage.count("rows_out")
    head: dict[str, Any] = {
        "pretty_name": title,
        "license": licence_id,
        **({"language": ["en"]} if english else {}),
        "task_categories": ["text-generation"],
        "size_categories": [next((name for most, name in SIZES if num < most), "n>10M")],
        "tags": ["bezoar", "synthetic", stage.kind.replace("_", "-")],
    }
    files = [
        (name, file)
        for name, file in (("default", "rows.parquet"), ("rejected", "rejected.parquet"))
        if stage.path(file)
    ]
    infos = [info for name, file in files if (info := _info(name, stage.path(file)))]
    if infos:
        named = {info["config_name"] for info in infos}
        head["configs"] = [
            {"config_name": name, "data_files": file} for name, file in files if name in named
        ]
        head["dataset_info"] = infos
    return head


def _info(name: str, path: Path | None) -> dict[str, Any] | None:
    """Features, sizes and counts of a Parquet file; None for a set without rows, which has no
    columns."""
    if path is None:
        return None
    with open_parquet(path) as file:
        schema, meta = file.metadata.schema.to_arrow_schema(), file.metadata
    if not len(schema):
        return None
    num_bytes = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    return {
        "config_name": name,
        "features": [_feature(field) for field in schema],
        "splits": [{"name": "train", "num_bytes": num_bytes, "num_examples": meta.num_rows}],
        "download_size": path.stat().st_size,
        "dataset_size": num_bytes,
    }


def _feature(field: Any) -> dict[str, Any]:
    """A column in the Hub's words: `dtype`, or `list` for a list of values or of structs."""
    import pyarrow.types as kinds

    if kinds.is_list(field.type):
        inner = field.type.value_type
        return {
            "name": field.name,
            "list": [_feature(part) for part in inner] if kinds.is_struct(inner) else str(inner),
        }
    return {
        "name": field.name,
        "dtype": (
            {"double": "float64", "float": "float32", "large_string": "string"}.get(
                str(field.type), str(field.type)
            )
        ),
    }


def _step(stage: StageRecord) -> list[str]:
    if not stage.done:
        return [stage.name, stage.kind, "not run", "", ""]
    left_out = ", ".join(f"{count(num)} {reason}" for reason, num in stage.dropped.items() if num)
    return [
        stage.name,
        stage.kind,
        count(stage.stats.get("rows_in")),
        count(stage.stats.get("rows_out")),
        left_out or "0",
    ]


def _dropped(stage: StageRecord) -> str:
    seen = stage.count("rows_out") + sum(stage.dropped.values())
    rows = [
        (reason, count(num), percent(num, seen)) for reason, num in stage.dropped.items() if num
    ]
    return (
        md.table(["Reason", "Rows", "Share"], rows)
        if rows
        else "Nothing was left out in this stage.\n"
    )


def _cost(run: Run, stage: StageRecord) -> str:
    own, cost = total([stage]), cost_per_row(run, stage)
    per = f" A kept row cost {usd(cost)}, the stages before included." if cost is not None else ""
    asked = (
        f"{count(own.calls['asked'])} requests, {count(own.calls['prompt_tokens'])} prompt tokens,"
        f" {count(own.calls['completion_tokens'])} written tokens"
        if stage.calls
        else "No requests"
    )
    return f"{asked}; {seconds(own.seconds)}; {usd(own.cost_usd)}.{per}\n"


def _columns(stage: StageRecord) -> str:
    words = {
        "id": "names the row",
        "messages": "the conversation: role and content of each turn",
        "prompt": "the turns before the answers",
        "chosen": "the preferred answer",
        "rejected": "the other answer",
        "answers": "several answers to the prompt",
        "numbers": "named numbers of each answer as JSON text",
        "meta": "provenance as JSON text: source, lineage, verdict",
    }
    path = stage.path("rows.parquet")
    info = _info("default", path)
    names = [feature["name"] for feature in info["features"]] if info else []
    lines = [f"- `{name}`: {words.get(name, 'see the recipe')}\n" for name in names]
    more = (
        "\n`rejected` holds what the judge turned down or what could not be read; `meta` has the"
        " verdict and its reason.\n"
        if stage.path("rejected.parquet")
        else ""
    )
    return "".join(lines) + more if lines else "The set is empty.\n"


def _terms(terms: dict[str, Any]) -> str:
    lines = [f"- {md.words(name)}: {t.licence}. {t.note}\n" for name, t in terms.items()]
    return "".join(lines) or "Nothing is known about the terms of the seeds.\n"
