"""Run directories of a few stages whose scores are worked out from the items that a test gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bezoar.evals.stats import Score, score
from bezoar.io import write_json, write_jsonl

START = "preferences/implicit reward over start accuracy"
Values = Mapping[str, Sequence[float | None]]


class SmallRun:
    """A run directory that grows by a stage at a time; `path` is where it lies."""

    def __init__(self, path: Path, **resolved: Any) -> None:
        self.path, self.stages = path, dict[str, dict[str, Any]]()
        self.metrics: list[dict[str, Any]] = []
        self.resolved = {"name": path.name, "seed": 7, **resolved}
        path.mkdir(parents=True)

    def add(self, name: str, fields: Mapping[str, Any], *, done: bool = True, **stats: Any) -> Path:
        """A stage with its statistics; without `done` it has not run."""
        self.stages[name] = dict(fields)
        write_json(self.path / "resolved.json", {**self.resolved, "stages": self.stages})
        folder = self.path / f"{len(self.stages):02d}-{name}"
        if done:
            folder.mkdir()
            write_json(folder / "stats.json", {"seconds": 0.0, **stats})
            inputs = {k: v for k, v in fields.items() if k in ("seeds", "rows", "model", "teacher")}
            kind = fields["kind"]
            category = {"train": "train", "evaluate": "evaluate", "hh_rlhf": "source"}.get(kind)
            more = {"category": category or ("filter" if kind == "filter" else "scheme")}
            more |= {"key": f"{len(self.stages):016x}", "finished": "2026-11-22T00:40:12+00:00"}
            write_json(folder / "key.json", {"kind": kind, "stage": name, "inputs": inputs, **more})
        return folder

    def train(self, name: str, model: str, kind: str = "sft", **stats: Any) -> None:
        """A training stage."""
        fields = {"kind": "train", "model": model, "rows": "pairs", "objective": {"kind": kind}}
        self.add(name, fields, **{"rows_out": 10, "steps": 9, **stats})

    def evaluate(
        self, model: str, values: Values, *, info: Mapping[str, Any] | None = None, **stats: Any
    ) -> None:
        """An evaluation: every value is an item; the start model's rewards are ties."""
        folder = self.add(f"eval-{model}", {"kind": "evaluate", "model": model}, **stats)
        scores, items = [], []
        for name, its in values.items():
            own = score(name, its)
            if name == START and set(its) == {0.5}:
                own = Score(name, 0.5, None, None, len(its), reason="by definition")
            scores.append(own.to_dict())
            items += [{"benchmark": name, "id": f"q{i}", "value": v} for i, v in enumerate(its)]
        facts = {"model": model, "label": model, "scores": scores, "info": dict(info or {})}
        write_json(folder / "scores.json", facts)
        write_jsonl(folder / "items.jsonl", items)

    def curve(self, stage: str, losses: Sequence[float]) -> None:
        """Validation losses of a stage, one a step from 0."""
        self.metrics += [
            {"stage": stage, "step": i, "validation_loss": loss} for i, loss in enumerate(losses)
        ]
        write_jsonl(self.path / "metrics.jsonl", self.metrics)


def hits(num: int, n: int) -> list[float]:
    """`num` ones, then zeros."""
    return [1.0] * num + [0.0] * (n - num)
