"""What each stage took: time, requests, tokens, money, and what a kept row cost."""

from collections.abc import Iterable
from dataclasses import dataclass

from bezoar.report.formatting import finite
from bezoar.report.run import Run, Stage


@dataclass(frozen=True)
class Line:
    """One stage's part of the bill, or the sum of several."""

    seconds: float = 0.0
    asked: int = 0
    from_journal: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    trained_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Line") -> "Line":
        return Line(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


def line(stage: Stage) -> Line:
    """The bill of one stage, zero where it has not run."""
    calls = stage.calls
    asked, from_journal, failed, prompt_tokens, completion_tokens = (
        round(calls.get(word, 0))
        for word in ("asked", "from_journal", "failed", "prompt_tokens", "completion_tokens")
    )
    return Line(
        finite(stage.stats.get("seconds")) or 0.0,
        asked,
        from_journal,
        failed,
        prompt_tokens,
        completion_tokens,
        stage.count("trained_tokens"),
        calls.get("cost_usd", 0.0),
    )


def total(stages: Iterable[Stage]) -> Line:
    """The whole bill."""
    return sum((line(stage) for stage in stages), Line())


def cost_per_row(run: Run, stage: Stage) -> float | None:
    """Dollars per row that a scheme or filter kept, what its rows cost before it included; None
    where nothing was asked or kept."""
    spent, calls = 0.0, False
    at: Stage | None = stage
    while at is not None and at.category in ("scheme", "filter"):
        spent, calls = spent + line(at).cost_usd, calls or bool(at.calls)
        at = run.stage(at.inputs.get("rows", ""))
    kept = stage.count("rows_out")
    return spent / kept if kept and calls else None
