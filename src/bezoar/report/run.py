"""A run directory as the report sees it: its stages in order, finished or not, and its training
curves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bezoar.errors import RecipeError
from bezoar.io import Row, read_jsonl, read_own
from bezoar.references import stage_folders
from bezoar.report.formatting import finite

Table = dict[str, Any]
Category = Literal["source", "scheme", "filter", "train", "evaluate", ""]
VALIDATION = "validation_loss"
"""The key that tells a line about the held-out rows from one about a step."""


@dataclass(frozen=True)
class StageRecord:
    """One stage: its settings, and what it left behind where it has run (`folder` is None where it
    has not)."""

    name: str
    fields: Table
    folder: Path | None = None
    key: Table = field(default_factory=dict)
    stats: Table = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """True when its output is complete."""
        return self.folder is not None

    @property
    def kind(self) -> str:
        """Which component it is."""
        return str(self.key.get("kind") or self.fields.get("kind") or "unknown kind")

    @property
    def category(self) -> Category:
        """What sort of work it does; empty where nothing says so."""
        known: Category = self.key.get("category", "")
        if known:
            return known
        marks: list[tuple[str, Category]] = [
            ("seeds", "scheme"),
            ("objective", "train"),
            ("models", "evaluate"),
            ("model", "evaluate"),
            ("rows", "filter"),
        ]
        return next((category for mark, category in marks if mark in self.fields), "source")

    @property
    def inputs(self) -> dict[str, str]:
        """Field -> the name of the stage, model or backend that the field refers to."""
        stored = {str(path): str(name) for path, name in (self.key.get("inputs") or {}).items()}
        roles = ("seeds", "rows", "model", "teacher", "judge")
        return stored or {
            role: self.fields[role] for role in roles if isinstance(self.fields.get(role), str)
        }

    def path(self, name: str) -> Path | None:
        """A file of the stage, None where it is absent."""
        return self.folder / name if self.folder and (self.folder / name).exists() else None

    def count(self, name: str) -> int:
        """A whole number of the statistics, 0 where absent."""
        return round(finite(self.stats.get(name)) or 0)

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> rows left out."""
        return {
            str(reason): round(finite(n) or 0)
            for reason, n in (self.stats.get("dropped") or {}).items()
        }

    @property
    def calls(self) -> dict[str, float]:
        """The counts of the requests it made, empty where it made none."""
        return {str(name): finite(n) or 0.0 for name, n in (self.stats.get("calls") or {}).items()}

    @property
    def failures(self) -> list[Row]:
        """The records of what was left out or failed: id, reason, detail."""
        path = self.path("failures.jsonl")
        return [row for _, row in read_jsonl(path, broken=[])] if path else []


@dataclass(frozen=True)
class Run:
    """All that a run directory holds. `metrics` maps a stage to its lines; `notes` says what could
    not be read."""

    path: Path
    name: str
    recipe: str
    resolved: Table
    stages: list[StageRecord]
    metrics: dict[str, list[Row]]
    notes: list[str]

    def of(self, *categories: str) -> list[StageRecord]:
        """The stages of these categories."""
        return [stage for stage in self.stages if stage.category in categories]

    def stage(self, name: str) -> StageRecord | None:
        """The stage of this name, None where there is none."""
        return next((stage for stage in self.stages if stage.name == name), None)


def load_run(run_dir: Path) -> Run:
    """Read a run directory, whole or partial. RecipeError when it is none."""
    if not run_dir.is_dir():
        raise RecipeError(f"{run_dir}: no such run directory; name one made by `bezoar run`.")
    folders = {name: path for name, path in stage_folders(run_dir) if (path / "key.json").is_file()}
    notes: list[str] = []
    resolved: Table = {}
    if (run_dir / "resolved.json").is_file():
        resolved = read_own(
            run_dir / "resolved.json",
            stages=dict[str, Table],
            models=dict[str, Table] | None,
            backends=dict[str, Table] | None,
        )
    elif folders:
        notes.append("resolved.json is absent: stages that have not run are not known.")
    else:
        raise RecipeError(
            f"{run_dir}: no run directory (resolved.json is missing); name one made by `bezoar"
            " run`."
        )
    fields: dict[str, Table] = resolved.get("stages") or {name: {} for name in folders}
    stages = [_load_stage(name, values, folders.get(name)) for name, values in fields.items()]
    left_over = sorted(folders.keys() - fields.keys())
    if left_over:
        notes.append(f"Not in the recipe and not shown: the folders of {', '.join(left_over)}.")
    path = run_dir / "recipe.yaml"
    recipe = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    metrics = _load_metrics(run_dir / "metrics.jsonl", notes)
    return Run(
        run_dir, str(resolved.get("name", run_dir.name)), recipe, resolved, stages, metrics, notes
    )


def _load_stage(name: str, fields: Table, folder: Path | None) -> StageRecord:
    if folder is None:
        return StageRecord(name, fields)
    counts = dict[str, int] | None
    stats = (
        read_own(folder / "stats.json", dropped=counts, calls=dict[str, float] | None)
        if (folder / "stats.json").is_file()
        else {}
    )
    return StageRecord(
        name,
        fields,
        folder,
        read_own(folder / "key.json", key=str, kind=str, category=str, inputs=dict[str, str]),
        stats,
    )


def _load_metrics(path: Path, notes: list[str]) -> dict[str, list[Row]]:
    """The lines of each stage by step. A step that comes again, in a continued or repeated run,
    replaces itself and all later ones."""
    if not path.is_file():
        return {}
    broken: list[int] = []
    lines = [line for _, line in read_jsonl(path, broken=broken)]
    if broken:
        notes.append(f"{len(broken)} line(s) of metrics.jsonl cannot be read and are not shown.")
    found: dict[str, list[Row]] = {}
    for line in lines:
        step = finite(line.get("step"))
        if step is None:
            continue
        kept = found.setdefault(str(line.get("stage", "")), [])
        while kept and (kept[-1]["step"], VALIDATION in kept[-1]) >= (step, VALIDATION in line):
            kept.pop()
        kept.append({**line, "step": step})
    return found
