"""What the sections of an evaluation have in common."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bezoar.chat.row_types import RowNeed
from bezoar.chat.types import Messages
from bezoar.cost import Estimate, RequestEstimate
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.io import Row
from bezoar.llm.types import Request
from bezoar.model.structured_output import form_of

HELD: Row = {"held to a form": "answers"}
"""What facts and conditions say of answers that were."""


class Section:
    """One section of an evaluation: a frozen dataclass whose fields are its recipe keys."""

    def check(self, model: str) -> None:
        """Raise ValueError for settings without meaning for this model."""

    def takes(self) -> Mapping[str, RowNeed]:
        """What the rows behind its keys must be; keys that are not there take any rows."""
        return {}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Measure the named model; what `cache_part` has stored is not measured again."""
        raise NotImplementedError

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """(backend, its requests); the backend "" is the evaluated model itself."""
        return []

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Score -> the smallest difference of two models that its items can show (80 % power)."""
        return {}

    def files(self) -> list[Path]:
        """Files of the package whose content changes the scores."""
        return []


def greedy_requests(
    prompts: Iterable[Messages], max_tokens: int, structured: bool
) -> list[Request]:
    """One greedy answer to each prompt; `structured` holds it to the form that its prompt asks."""
    return [
        Request(prompt, max_tokens=max_tokens, form=form_of(prompt) if structured else None)
        for prompt in prompts
    ]


def asked_alike(context: EvalContext, max_tokens: int, structured: bool) -> Row:
    """What such answers depend on beside model and items, all of which two scores must share."""
    # what is not rendered here has a format that only its server, or its author, knows
    form = "its own" if context.answers_only else repr(context.template)
    held = HELD if structured else {}
    return {"prompt format": form, **held, "answer tokens": max_tokens}


def expected_rows(rows: Mapping[str, Estimate], name: str, limit: int | None) -> int:
    """How many rows a stage is expected to give, at most `limit`; 0 where that is not known."""
    num = int(rows[name].expected) if name in rows else 0
    return min(num, limit) if limit else num


def item_rows(
    benchmark: str, ids: Sequence[str | int], values: Sequence[float | None], reason: str = ""
) -> list[Row]:
    """One record an item; `reason` says why some have no value."""
    return [
        {"benchmark": benchmark, "id": item, "value": value}
        | ({"reason": reason} if reason and value is None else {})
        for item, value in zip(ids, values, strict=True)
    ]
