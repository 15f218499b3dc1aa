"""A run directory as the report sees it: its stages, finished or not, and their training curves."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bezoar.errors import DataError, RecipeError
from bezoar.flow.recipe import KINDS
from bezoar.flow.rundir import RunDir
from bezoar.io import Row, read_jsonl, read_own
from bezoar.llm.journal import Journal
from bezoar.references import seed_of
from bezoar.report.formatting import finite

VALIDATION = "validation_loss"
"""Tells a line of metrics.jsonl about the held-out rows from one about a step."""
MOST_NAMED = 6
ROLES = ("seeds", "rows", "model", "teacher", "judge")
"""Fields of a stage that name another stage, a model or a backend."""


@dataclass(frozen=True)
class StageRecord:
    """One stage: its settings, and what it left behind if it has run."""

    name: str
    fields: Row
    folder: Path | None = None
    key: Row = field(default_factory=dict)
    stats: Row = field(default_factory=dict)
    seed: int | None = None
    """Of a repeat with another seed, which has the name of what it repeats."""
    earlier: bool = False
    """Its folder holds the output of earlier settings, which is no result of these."""
    left: Path | None = None
    """Where it wrote its failures if it ended and was not done."""

    @property
    def done(self) -> bool:
        """True if its output is complete."""
        return self.folder is not None

    @property
    def unfinished(self) -> str:
        """Why it ended and was not done; what it has cost is in `stats`."""
        return str(self.stats.get("unfinished") or "")

    @property
    def gave_nothing(self) -> bool:
        """True if it ended without a row, as it would again."""
        return bool(self.unfinished) and self.stats.get("rows_out") == 0

    @property
    def kind(self) -> str:
        """Which component it is."""
        return str(self.key.get("kind") or self.fields.get("kind", "unknown kind"))

    @property
    def category(self) -> str:
        """What sort of work it does: source, scheme, filter, train or evaluate."""
        # A stage that has not run has no key.json, but its kind says what it would do.
        by_kind = (category for category, kinds in KINDS.items() if self.kind in kinds)
        return self.key.get("category") or next(by_kind, "")

    @property
    def inputs(self) -> dict[str, str]:
        """Field -> the stage, model or backend that it names."""
        roles = {role: self.fields.get(role) for role in ROLES}
        # Only key.json knows the names in nested settings, such as an evaluation's judge.
        named = {role: name for role, name in roles.items() if isinstance(name, str)}
        return self.key.get("inputs") or named

    def path(self, name: str) -> Path | None:
        """A file of the stage, None if it is absent."""
        return self.folder / name if self.folder and (self.folder / name).exists() else None

    def count(self, name: str) -> int:
        """A whole number of the statistics, 0 if absent."""
        return round(finite(self.stats.get(name)) or 0)

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> rows left out."""
        return self.stats.get("dropped") or {}

    @property
    def calls(self) -> dict[str, float]:
        """The counts of the requests it made, empty if it made none."""
        return self.stats.get("calls") or {}

    @property
    def failures(self) -> list[Row]:
        """The records of what was left out or failed: id, reason, detail."""
        folder = self.folder or self.left
        path = folder / "failures.jsonl" if folder else None
        return [row for _, row in read_jsonl(path, broken=[])] if path and path.exists() else []


@dataclass(frozen=True)
class Run:
    """All that a run directory holds."""

    path: Path
    name: str
    recipe: str
    """The text of recipe.yaml."""
    resolved: Row
    stages: list[StageRecord]
    metrics: dict[str, list[Row]]
    """Stage -> its lines of metrics.jsonl."""
    notes: list[str]
    """What could not be read, a sentence each."""
    repeats: list[StageRecord] = field(default_factory=list)
    """The stages of further seeds; `stages` are those of the recipe's own."""
    spent_usd: float | None = None
    """What its budget counts: all replies that it asked for, also for what has changed since. None
    without a journal."""

    @property
    def everything(self) -> list[StageRecord]:
        """All stages of all seeds, for what they took together."""
        return [*self.stages, *self.repeats]

    @property
    def missing(self) -> list[str]:
        """The stages without output, as people read them."""
        return _names(stage for stage in self.everything if not stage.done)

    @property
    def earlier(self) -> list[str]:
        """Those of them whose folder holds the output of earlier settings."""
        return _names(stage for stage in self.everything if stage.earlier)

    @property
    def further_seeds(self) -> list[int]:
        """The seeds of the repeats, in their order."""
        return list(dict.fromkeys(s.seed for s in self.repeats if s.seed is not None))

    def with_seed(self, seed: int) -> "Run":
        """The run with the stages of another seed in the place of those that they repeat."""
        own = {stage.name: stage for stage in self.repeats if stage.seed == seed}
        return replace(self, stages=[own.get(s.name, s) for s in self.stages], repeats=[])

    def of(self, *categories: str) -> list[StageRecord]:
        """The stages of these categories."""
        return [stage for stage in self.stages if stage.category in categories]

    def stage(self, name: str) -> StageRecord | None:
        """The stage of this name."""
        return next((stage for stage in self.stages if stage.name == name), None)


def _names(stages: Iterable[StageRecord]) -> list[str]:
    """Names, of further seeds with their seed; of many the number."""
    names = [s.name if s.seed is None else f"{s.name} (seed {s.seed})" for s in stages]
    few = names[:MOST_NAMED]
    many = len(names) > MOST_NAMED + 1
    return [*few, f"{len(names) - len(few)} more stages"] if many else names


def load_run(path: Path) -> Run:
    """Read a run directory, whole or partial. RecipeError if it is none."""
    if not path.is_dir():
        raise RecipeError(f"{path}: no such run directory; name one made by `bezoar run`.")
    run_dir = RunDir(path)
    folders, resolved = run_dir.stage_dirs(), run_dir.resolved()
    notes: list[str] = []
    # Partial and damaged runs are shown as far as they can be read; only a folder that is
    # no run at all is refused. The notes say what is missing.
    if not resolved and not folders:
        reason = "no run directory (resolved.json is missing)"
        raise RecipeError(f"{path}: {reason}; name one made by `bezoar run`.")
    if not resolved:
        notes.append("resolved.json is absent: stages that have not run are not known.")
    settings: dict[str, Row] = resolved.get("stages") or {name: {} for name in folders}
    stages = [_load_stage(run_dir, name, settings[name], folders.get(name)) for name in settings]
    repeats = [
        replace(
            _load_stage(run_dir, name, settings[stage], folders.get(name)), name=stage, seed=seed
        )
        for name in resolved.get("repeats") or {}
        for stage, seed in [seed_of(name)]
        if stage in settings
    ]
    # Folders of a stage that was renamed or removed: their rows are no part of this recipe.
    unknown = sorted(folders.keys() - settings.keys() - (resolved.get("repeats") or {}).keys())
    if unknown:
        notes.append(f"Not in the recipe and not shown: the folders of {', '.join(unknown)}.")
    recipe = path / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    metrics = _load_metrics(path / "metrics.jsonl", notes)
    # curves of earlier settings are no curves of these, until the stage has begun anew
    for name in filter(run_dir.is_earlier, list(metrics)):
        if not (path / f".work-{name}-{resolved['keys'][name]}").is_dir():
            del metrics[name]
    name = resolved.get("name", path.name)
    spent_usd = _spent_usd(run_dir, name, notes)
    return Run(path, name, text, resolved, stages, metrics, notes, repeats, spent_usd)


def _spent_usd(run_dir: RunDir, name: str, notes: list[str]) -> float | None:
    if run_dir.journal is None:
        return None
    try:
        with Journal(run_dir.journal) as journal:
            return journal.spent_usd(name)
    except (DataError, OSError):
        notes.append("The journal cannot be read: what was paid for earlier attempts is not shown.")
        return None


def _load_stage(run_dir: RunDir, name: str, fields: Row, folder: Path | None) -> StageRecord:
    earlier = run_dir.is_earlier(name)
    if folder is None or earlier:
        stats = run_dir.unfinished(name)
        left = run_dir.left_dir(name) if stats else None
        return StageRecord(name, fields, stats=stats, earlier=earlier, left=left)
    # A damaged folder may lack its statistics; then its figures are shown as absent.
    stats, path = {}, folder / "stats.json"
    if path.is_file():
        stats = read_own(path, dropped=dict[str, int] | None, calls=dict[str, float] | None)
    return StageRecord(name, fields, folder, run_dir.stored(name), stats)


def _load_metrics(path: Path, notes: list[str]) -> dict[str, list[Row]]:
    """Stage -> its lines by step."""
    if not path.is_file():
        return {}
    broken: list[int] = []
    metrics: dict[str, list[Row]] = {}
    for _, line in read_jsonl(path, broken=broken):
        step = finite(line.get("step"))
        if step is None:
            continue
        # A continued or repeated run writes a step again: it replaces the step and all later ones.
        lines = metrics.setdefault(str(line.get("stage", "")), [])
        place = (step, VALIDATION in line)
        while lines and (lines[-1]["step"], VALIDATION in lines[-1]) >= place:
            lines.pop()
        lines.append({**line, "step": step})
    if broken:
        notes.append(f"{len(broken)} line(s) of metrics.jsonl cannot be read and are not shown.")
    return metrics
