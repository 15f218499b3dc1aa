"""Rows that stand in the stage of a training and did not train."""

from collections.abc import Iterable
from typing import NamedTuple

from bezoar.stage import TrainedStage


class Unread(NamedTuple):
    """Ids of a stage's rows that no training below a model was trained on."""

    dropped: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()
    """Looked at by one of them, to choose its weights."""

    @classmethod
    def of(cls, stages: Iterable[TrainedStage], rows: str) -> "Unread":
        """Those of the stages that read these rows."""
        own = [
            (stage.ids("failures.jsonl"), stage.ids("validation.jsonl"))
            for stage in stages
            if stage.rows == rows
        ]
        unread = frozenset.intersection(*(dropped | held_out for dropped, held_out in own))
        held_out = frozenset.union(*(held_out for _, held_out in own)) & unread
        return cls(unread - held_out, held_out)
