"""Which filters count the rows of a scheme whose size is what they accept."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from bezoar.cost import Estimate, Quote, exactly
from bezoar.errors import RecipeError
from bezoar.flow.yaml_document import KeyPath
from bezoar.judge.stages import JudgeFilter, RuleFilter
from bezoar.stage import Stage
from bezoar.synth.drawn_rows import DrawnRows
from bezoar.synth.scheme import Scheme


def accepting(stages: Mapping[str, Stage], name: str) -> list[str]:
    """The filters behind a scheme, each reading the one before; none where it says itself how many
    rows it writes. Where several read the same rows none of them follows."""
    stage, chain = stages[name], list[str]()
    if not (isinstance(stage, Scheme | DrawnRows) and stage.wanted):
        return chain
    while len(readers := _readers(stages, chain[-1] if chain else name)) == 1:
        chain += readers
    return chain


def quoted(
    stages: Mapping[str, Stage],
    name: str,
    rows: Mapping[str, Estimate],
    kept: Callable[[str], Estimate | None] = lambda stage: None,
) -> Quote:
    """What a stage is expected to give and to ask, from the rows of those that it reads.

    `kept` knows what share of its rows a filter has kept before.
    """
    stage, last = stages[name], last_of(stages, name)
    if not (isinstance(stage, Scheme | DrawnRows) and (wanted := stage.wanted)):
        quote = stage.quote(rows)
        if isinstance(stage, JudgeFilter | RuleFilter) and (share := kept(name)):
            quote = quote._replace(rows=rows[stage.rows] * share)
        return quote if last is None else quote._replace(rows=quote.rows.at_most(exactly(last)))
    # 1) The share that the filters keep, one after the other.
    share = exactly(1)
    for behind in accepting(stages, name):
        share *= kept(behind) or stages[behind].quote(defaultdict(lambda: exactly(1))).rows
    # 2) The more of them is accepted the fewer are written; where that is not known the limit ends.
    least = math.ceil(wanted.accepted / getattr(stage, "most_each", 1))
    shares = (share.high, share.expected, share.low)
    sizes = [min(math.ceil(least / s) if s else wanted.limit, wanted.limit) for s in shares]
    low, expected, high = (stage.sized(size).quote(rows) for size in sizes)
    # 3) What is asked has the same parts for any size.
    parts = zip(low.requests, expected.requests, high.requests, strict=True)
    requests = [
        (who, replace(b, num=Estimate(a.num.low, b.num.expected, c.num.high)))
        for (who, a), (_, b), (_, c) in parts
    ]
    rows_out = Estimate(low.rows.low, expected.rows.expected, high.rows.high)
    return Quote(rows_out, requests)


def last_of(stages: Mapping[str, Stage], name: str) -> int | None:
    """How many rows the filter `name` accepts, if it is the last that counts those of a scheme."""
    for start, stage in stages.items():
        if accepting(stages, start)[-1:] == [name]:
            assert isinstance(stage, Scheme | DrawnRows)
            return stage.wanted.accepted if stage.wanted else None
    return None


def _readers(stages: Mapping[str, Stage], name: str) -> list[str]:
    return [
        reader
        for reader, stage in stages.items()
        if isinstance(stage, JudgeFilter | RuleFilter) and stage.rows == name
    ]


def check_accepted(stages: Mapping[str, Stage], at: Callable[[KeyPath], str]) -> None:
    """RecipeError unless a line of filters that decide row by row stands behind each scheme whose
    size is what they accept. `at` gives the place of a key in the recipe file."""
    for name, stage in stages.items():
        if not (isinstance(stage, Scheme | DrawnRows) and (wanted := stage.wanted)):
            continue
        chain, key = accepting(stages, name), getattr(stage, "counted", "num_rows")
        where = at(("stages", name, key))
        several = _readers(stages, chain[-1] if chain else name)
        if several:
            what = f"{' and '.join(several)} filter the same rows, so which of them accepts?"
            raise RecipeError(f"{where}: {what} Let one read the other.")
        if not chain:
            fix = f"write {key}: {wanted.accepted}, or add a filter"
            raise RecipeError(f"{where}: no filter reads the rows of {name}; {fix}.")
        for behind in chain:
            if not stages[behind].row_by_row:  # type: ignore[attr-defined]
                what = f"{behind} chooses among all rows, which come wave by wave"
                fix = "let it decide row by row (a threshold for keep_share), or write a number"
                raise RecipeError(f"{where}: {what}; {fix}.")
