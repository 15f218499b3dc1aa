"""The card of a generated set, in the form the Hub reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.parquet import open_parquet
from bezoar.report.formatting import count
from bezoar.report.lineage import ancestors, backends, licence, terms_of
from bezoar.report.markdown import render
from bezoar.report.rows import RowSet, read_rows
from bezoar.report.run import Run, StageRecord
from bezoar.report.sections.bill import cost_per_row, total

if TYPE_CHECKING:
    import pyarrow

NUM_SAMPLES = 3
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}
"""Numbers of rows -> the Hub's size category below them."""
FILES = {"default": "rows.parquet", "rejected": "rejected.parquet"}
COLUMNS = {
    "id": "names the row",
    "messages": "the conversation: role and content of each turn",
    "prompt": "the turns before the answers",
    "chosen": "the preferred answer",
    "rejected": "the other answer",
    "answers": "several answers to the prompt",
    "numbers": "named numbers of each answer as JSON text",
    "meta": "provenance as JSON text: source, lineage, verdict",
}


def dataset_card(run: Run, stage: StageRecord) -> str:
    """README.md of a scheme's or filter's set."""
    lineage = ancestors(run, stage)
    terms = terms_of(run, lineage)
    stored = stage.path("rows.parquet")
    infos = {name: info for name, file in FILES.items() if (info := _info(name, stage.path(file)))}
    rows = read_rows(stored, NUM_SAMPLES) if stored else RowSet(0)
    asked = backends(run, lineage).items()
    dropped = {reason: num for reason, num in stage.dropped.items() if num}
    # The language is known only if every part is known to be English.
    english = bool(terms) and all(term.english for term in terms.values())
    return render(
        "dataset_card.md.j2",
        head=_head(run, stage, infos, licence(terms), english=english),
        run=run,
        stage=stage,
        # A judge that accepted rows of several stages is named once.
        models=list(dict.fromkeys(f"{role} {model}" for (role, _), model in asked)),
        lineage=lineage,
        left_out=_left_out,
        dropped=dropped,
        num_seen=stage.count("rows_out") + sum(dropped.values()),
        costs=total([stage]),
        row_cost=cost_per_row(run, stage),
        columns=[column["name"] for column in infos.get("default", {}).get("features", [])],
        column_words=COLUMNS,
        samples=rows.samples,
        terms=terms,
    )


def _head(
    run: Run, stage: StageRecord, infos: dict[str, Any], licence_id: str, *, english: bool
) -> dict[str, Any]:
    num = stage.count("rows_out")
    head: dict[str, Any] = {
        "pretty_name": f"{run.name}: {stage.name}",
        "license": licence_id,
        **({"language": ["en"]} if english else {}),
        "task_categories": ["text-generation"],
        "size_categories": [next((name for end, name in SIZES.items() if num < end), "n>10M")],
        "tags": ["bezoar", "synthetic", stage.kind.replace("_", "-")],
    }
    if infos:
        head["configs"] = [{"config_name": name, "data_files": FILES[name]} for name in infos]
        head["dataset_info"] = list(infos.values())
    return head


def _info(name: str, path: Path | None) -> dict[str, Any] | None:
    """Features, sizes and counts of a Parquet file; None for a set without rows or columns."""
    if path is None:
        return None
    with open_parquet(path) as file:
        metadata = file.metadata
        schema = metadata.schema.to_arrow_schema()
    # A file without rows has no columns, and the Hub refuses a configuration without features.
    if not len(schema):
        return None
    groups = range(metadata.num_row_groups)
    num_bytes = sum(metadata.row_group(i).total_byte_size for i in groups)
    split = {"name": "train", "num_bytes": num_bytes, "num_examples": metadata.num_rows}
    return {
        "config_name": name,
        "features": [_feature(field) for field in schema],
        "splits": [split],
        "download_size": path.stat().st_size,
        "dataset_size": num_bytes,
    }


def _feature(field: "pyarrow.Field") -> dict[str, Any]:
    """A column in the Hub's words: `dtype`, or `list` for a list of values or of structs."""
    import pyarrow.types

    if pyarrow.types.is_list(field.type):
        inner = field.type.value_type
        parts = [_feature(f) for f in inner] if pyarrow.types.is_struct(inner) else str(inner)
        return {"name": field.name, "list": parts}
    hub_names = {"double": "float64", "float": "float32", "large_string": "string"}
    return {"name": field.name, "dtype": hub_names.get(str(field.type), str(field.type))}


def _left_out(step: StageRecord) -> str:
    reasons = [f"{count(num)} {reason}" for reason, num in step.dropped.items() if num]
    return ", ".join(reasons) or "0"
