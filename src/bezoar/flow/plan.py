"""What a run would do, before anything is spent: rows, requests, tokens, money and memory."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from bezoar.cost import Estimate, RequestEstimate, exactly, price
from bezoar.errors import DataError
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.budgets import divided, where_it_ends
from bezoar.flow.cache_key import all_keys
from bezoar.flow.preflight import check_files, check_machine, check_rows
from bezoar.flow.recipe import Recipe, base_of
from bezoar.flow.rundir import RunDir
from bezoar.io import read_own
from bezoar.model.find import local_config
from bezoar.terminal import plain
from bezoar.train.memory import available, largest_budget, largest_micro_batch, predict_memory
from bezoar.train.stages import PPO, Train

NO_ROWS = Estimate(0, 0, 0)


@dataclass
class StagePlan:
    """One line of the plan; `rows` is what the stage is expected to give."""

    name: str
    kind: str
    current: bool
    reads: list[str]
    rows: Estimate = NO_ROWS
    calls: Sequence[tuple[str, RequestEstimate]] = ()
    memory_bytes: int | None = None
    fits: int | None = None  # the largest tokens_per_batch that the memory which is free would hold
    note: str = ""
    detectable: dict[str, float] = field(default_factory=dict)


def make_plan(recipe: Recipe, run: RunDir) -> list[StagePlan]:
    """A line a stage, in the order of the run."""
    run.check_owner(recipe)
    check_files(recipe)
    keys, _ = all_keys(recipe)
    stale = {name for name in keys if run.stored(name).get("key") != keys[name]}
    check_rows(recipe, run, stale)
    lines: dict[str, StagePlan] = {}
    for name, stage in recipe.stages.items():
        reads = [ref.name for ref in recipe.inputs(name) if ref.kind != "file"]
        folder = run.stage_dir(name)
        current = folder is not None and run.stored(name)["key"] == keys[name]
        line = StagePlan(name, stage.kind, current, reads)
        # what is there is counted, what is not is guessed from the stages before it
        if folder and current:
            stats = read_own(folder / "stats.json", rows_out=int | None)
            line.rows = exactly(stats["rows_out"] or 0)
        else:
            _expect(recipe, run, name, lines, line)
        lines[name] = line
    return list(lines.values())


def _expect(
    recipe: Recipe, run: RunDir, name: str, lines: dict[str, StagePlan], line: StagePlan
) -> None:
    """Fill in what a stage that is not current is expected to cost and give."""
    stage = recipe.stages[name]
    rows = {ref.name: lines[ref.name].rows for ref in recipe.inputs(name) if ref.name in lines}
    # 1) Requests. An evaluation may count rows of a file that the run has yet to write, so its plan
    # says that they are not known; any other stage's fault would be the run's as well.
    try:
        if isinstance(stage, Evaluate):
            line.detectable = stage.detectable(rows)
        line.rows, line.calls = stage.quote(rows)
    except DataError as error:
        if not isinstance(stage, Evaluate):
            raise
        line.note = str(error)
    # 2) Memory, where the model's config is on this machine: a plan fetches nothing.
    if isinstance(stage, Train | PPO):
        spec = recipe.models[base_of(recipe, stage.model)]
        config = local_config(spec.path)
        if config is not None:
            tokens = _tokens(recipe, run, stage, lines[stage.rows].current)
            free, on_gpu = available()
            memory = predict_memory(config, spec, stage.adapter, tokens=tokens, on_gpu=on_gpu)
            if memory:
                line.memory_bytes = memory.total
                line.fits = largest_budget(config, spec, stage.adapter, free=free, on_gpu=on_gpu)


def _tokens(recipe: Recipe, run: RunDir, stage: Train | PPO, rows_are_there: bool) -> int:
    """Tokens of the fullest micro-batch: of the real rows if they exist, else of the settings."""
    most = int(min(stage.tokens_per_batch, stage.batch_size * stage.max_length))
    # PPO samples its rows while it trains, and the core package has no tokenizer
    if not rows_are_there or not isinstance(stage, Train) or find_spec("transformers") is None:
        return most
    from bezoar.model.load import load_tokenizer

    try:
        tokenizer = load_tokenizer(recipe.models[base_of(recipe, stage.model)].path)
        return largest_micro_batch(run.items(stage.rows), stage, recipe.template, tokenizer) or most
    except DataError:
        return most  # the stage itself says what is wrong with its rows


def print_plan(recipe: Recipe, run: RunDir, console: Any) -> None:
    """Print the graph, then what each stage is expected to need, with totals."""
    from rich.box import SIMPLE
    from rich.table import Table

    # 1) the graph, which shows an unwanted dependency before its cost does
    lines = make_plan(recipe, run)
    num_stale = sum(not line.current for line in lines)
    console.print(plain(f"{recipe.name}: {num_stale} of {len(lines)} stages would run. The graph:"))
    for line in lines:
        arrow = f" <- {', '.join(line.reads)}" if line.reads else ""
        if line.name not in recipe.repeated:
            console.print(plain(f"  {line.name} ({line.kind}){arrow}"))
    if recipe.repeated:
        console.print(plain(_repeats_in_words(recipe)))
    # 2) a line a stage; a column's total needs low, expected and high values added apart
    table = Table(box=SIMPLE, show_footer=True, pad_edge=False)
    sums = [_sums(recipe, line) for line in lines]
    totals = [sum((row[i] for row in sums), NO_ROWS) for i in range(3)]
    table.add_column("stage", "total")
    table.add_column("state")
    for name, foot in (
        ("rows", ""),
        ("requests", str(totals[0])),
        ("tokens", str(totals[1])),
        ("USD", totals[2].money()),
        ("GiB", ""),
    ):
        table.add_column(name, foot, justify="right")
    for line, (requests, tokens, money) in zip(lines, sums, strict=True):
        memory = f"{line.memory_bytes / 2**30:.1f}" if line.memory_bytes else ""
        cells = [str(cell) if cell else "" for cell in (line.rows, requests, tokens)]
        state = "current" if line.current else "to run"
        table.add_row(line.name, state, *cells, money.money() if money else "", memory)
    console.print(table)
    # 3) what holds for several stages, once
    _print_shared(lines, console)
    memory = "GiB: training's peak with the fullest micro-batch"
    note = f"Expected (low to high). Replies that are in the journal cost nothing. {memory}."
    console.print(plain(f"{note} Budget: {divided(recipe)}."))
    expected = {line.name: row[2].expected for line, row in zip(lines, sums, strict=True)}
    ends = where_it_ends(recipe, expected)
    if ends:
        what = f"the budget is expected to end in {ends}, and the run stops there, unfinished"
        console.print(plain(f"warning: {what}; raise it, or ask for less."))
    # 4) what the machine lacks, behind the plan, which does not depend on it
    check_machine(recipe, {line.name for line in lines if not line.current}, console)


def _repeats_in_words(recipe: Recipe) -> str:
    seeds = recipe.seeds
    again = dict.fromkeys(repeat.stage for repeat in recipe.repeated.values())
    return (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}): once with each {', '.join(again)};"
        " the other stages once."
    )


def _print_shared(lines: list[StagePlan], console: Any) -> None:
    """Notes, detectable differences and the most that fits, once for the stages that share it."""
    stages = defaultdict[str, list[str]](list)
    for line in lines:
        if line.note:
            note = line.note.removesuffix(".")
            stages[f"the requests are not known yet: {note}"].append(line.name)
        if line.detectable:
            scores = ", ".join(f"{name} {least:.2g}" for name, least in line.detectable.items())
            stages[f"differences that can be shown (80 % power): {scores}"].append(line.name)
        if line.fits is not None:
            fits = f"the memory that is free now holds a tokens_per_batch of up to {line.fits}"
            stages[fits].append(line.name)
    for sentence, names in stages.items():
        console.print(plain(f"{', '.join(names)}: {sentence}."))


def _sums(recipe: Recipe, line: StagePlan) -> tuple[Estimate, Estimate, Estimate]:
    requests, tokens, money = NO_ROWS, NO_ROWS, NO_ROWS
    for backend, calls in line.calls:
        requests += calls.num
        tokens += calls.tokens()
        money += price(calls, recipe.backends.get(backend))
    return requests, tokens, money
