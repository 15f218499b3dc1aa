"""What a run would do, before anything is spent: rows, requests, tokens, money and memory."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bezoar.cost import Estimate, Quote, RequestEstimate, cents, exactly, price
from bezoar.errors import DataError
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.acceptance import quoted
from bezoar.flow.budgets import divided, spent_by, where_it_ends
from bezoar.flow.cache_key import all_keys
from bezoar.flow.launch_keys import where
from bezoar.flow.preflight import check_files, check_machine, check_rows
from bezoar.flow.quote_history import Kept, kept_before, learned
from bezoar.flow.recipe import Recipe, base_of
from bezoar.flow.references import refs
from bezoar.flow.repeats import in_words
from bezoar.flow.rundir import RunDir
from bezoar.flow.sharing import same_key
from bezoar.flow.training_plan import (
    KnownRows,
    TrainingPlan,
    answered,
    expected,
    few_items,
    finished,
    row_tokens,
    trained_rows,
    warnings,
)
from bezoar.flow.training_time import duration, measured_rate, needed_flops
from bezoar.io import read_own
from bezoar.model.find import local_config
from bezoar.model.tokenizer import shared_tokenizer
from bezoar.terminal import plain
from bezoar.train import Training
from bezoar.train.fullest import largest_micro_batch
from bezoar.train.memory import memory_here
from bezoar.train.stages import Train

if TYPE_CHECKING:
    from bezoar.flow.replay import Replay

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
    taken: str = ""  # run/stage of another run that has it already
    detectable: dict[str, float] = field(default_factory=dict)
    row_tokens: float = 0.0  # of one of the rows that it gives, about; 0 is not known
    training: TrainingPlan | None = None
    flops: float | None = None
    warnings: list[str] = field(default_factory=list)


def make_plan(recipe: Recipe, run: RunDir, kept: Kept | None = None) -> list[StagePlan]:
    """A line a stage, in the order of the run; `kept` knows what share filters keep."""
    run.check_owner(recipe)
    check_files(recipe)
    keys, _ = all_keys(recipe)
    stale = run.stale(keys)
    known = KnownRows(recipe, run, stale, kept or kept_before(run))
    check_rows(known)
    # here, since it brings the HTTP client
    from bezoar.flow.replay import replaying

    with replaying(recipe, run, keys.keys() - stale) as replay:
        return _lines(known, keys, replay)


def _lines(known: KnownRows, keys: Mapping[str, str], replay: "Replay | None") -> list[StagePlan]:
    recipe, run = known.recipe, known.run
    lines: dict[str, StagePlan] = {}
    for name, stage in recipe.stages.items():
        reads = [ref.name for ref in recipe.inputs(name) if ref.kind != "file"]
        line = StagePlan(name, stage.kind, name not in known.stale, reads)
        folder = run.output_dir(name) if line.current else None
        if not line.current and stage.gives == "model":
            folder = next((where for _, _, where in same_key(run, keys[name])), None)
            line.taken = f"{folder.parent.name}/{folder.name}" if folder else ""
        # what is there is counted, what is not is guessed from the stages before it
        if folder:
            stats = read_own(folder / "stats.json", rows_out=int | None)
            line.rows = exactly(stats["rows_out"] or 0)
            if isinstance(stage, Training):
                line.training = finished(stats, stage)
        else:
            _expect(known, name, lines, line)
            if replay and not isinstance(stage, Evaluate):
                line.rows, line.calls = replay.quote(name, Quote(line.rows, line.calls))
                line.calls = learned(recipe, name, line.calls, replay.journal)
        lines[name] = line
    return list(lines.values())


def _expect(known: KnownRows, name: str, lines: dict[str, StagePlan], line: StagePlan) -> None:
    """Fill in what a stage that is not current is expected to cost and give."""
    recipe, stage = known.recipe, known.recipe.stages[name]
    rows = {ref.name: lines[ref.name].rows for ref in recipe.inputs(name) if ref.name in lines}
    # 1) Requests. An evaluation may count rows of a file that the run has yet to write, so its plan
    # says that they are not known; any other stage's fault would be the run's as well.
    try:
        if isinstance(stage, Evaluate):
            line.detectable = stage.detectable(rows)
        line.rows, line.calls = quoted(recipe.stages, name, rows, known.kept)
    except DataError as error:
        if not isinstance(stage, Evaluate):
            raise
        line.note = str(error)
    upstream = [lines[source].row_tokens for source in recipe.upstream(name)]
    line.row_tokens = row_tokens(stage, line.calls, upstream)
    # 2) What a training will do, and what of it or of an evaluation will not work.
    if isinstance(stage, Training):
        _expect_training(known, stage, lines[stage.rows], line)
    elif isinstance(stage, Evaluate):
        line.warnings = [*trained_rows(recipe, name, stage), *few_items(stage, rows)]
    # 3) Memory, where the model's config is on this machine.
    if isinstance(stage, Training):
        spec = recipe.models[base_of(recipe, stage.model)]
        config = local_config(spec.path)
        if config is not None:
            tokens = _tokens(known, stage)
            scored = [ref.name for ref in refs(stage) if ref.scored]
            beside = [recipe.models[base_of(recipe, name)] for name in scored]
            stage = replace(stage, launch=recipe.ranks_of(name))
            if expected_memory := memory_here(config, spec, stage, tokens=tokens, beside=beside):
                line.memory_bytes, line.fits = expected_memory


def _expect_training(known: KnownRows, stage: Training, source: StagePlan, line: StagePlan) -> None:
    """Fill in steps, tokens and operations, from the rows themselves where they are there."""
    if not isinstance(stage, Train):
        line.training = answered(stage, source.rows.expected)
        line.warnings = list(warnings(stage, line.training, None))
        return
    num_rows, rows = source.rows.expected, known[stage.rows]
    line.training, lengths = expected(known.recipe, stage, num_rows, rows, source.row_tokens)
    # of rows that are not counted nothing can be said
    if num_rows:
        line.warnings = list(warnings(stage, line.training, lengths))
    line.flops = needed_flops(known.recipe, stage, line.training, lengths)


def _tokens(known: KnownRows, stage: Training) -> int:
    """Tokens of the fullest micro-batch: of the real rows if they exist, else of the settings."""
    most = int(min(stage.tokens_per_batch, stage.batch_size * stage.max_length))
    # PPO samples its rows while it trains, and the core package has no tokenizer
    are_there = stage.rows not in known.stale
    if not are_there or not isinstance(stage, Train) or find_spec("transformers") is None:
        return most
    recipe, rows = known.recipe, known[stage.rows] or ()
    try:
        spec = recipe.models[base_of(recipe, stage.model)]
        tokenizer = shared_tokenizer(spec.path, spec.add_tokens)
        return largest_micro_batch(rows, stage, recipe.template, tokenizer) or most
    except DataError:
        return most  # the stage itself says what is wrong with its rows


def print_plan(recipe: Recipe, run: RunDir, console: Any, kept: Kept | None = None) -> None:
    """Print the graph, then what each stage is expected to need, with totals."""
    from rich.box import SIMPLE
    from rich.table import Table

    # 1) the graph, which shows an unwanted dependency before its cost does
    lines = make_plan(recipe, run, kept)
    num_stale = sum(not (line.current or line.taken) for line in lines)
    console.print(plain(f"{recipe.name}: {num_stale} of {len(lines)} stages would run. The graph:"))
    for line in lines:
        arrow = f" <- {', '.join(line.reads)}" if line.reads else ""
        if line.name not in recipe.repeated:
            console.print(plain(f"  {line.name} ({line.kind}){arrow}"))
    if recipe.repeated:
        console.print(plain(in_words(recipe.seeds, recipe.repeated)))
    # 2) a line a stage; a column's total needs low, expected and high values added apart
    table = Table(box=SIMPLE, show_footer=True, pad_edge=False)
    sums = [line_sums(recipe, line) for line in lines]
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
        state = "current" if line.current else "taken" if line.taken else "to run"
        table.add_row(line.name, state, *cells, money.money() if money else "", memory)
    console.print(table)
    if any(line.training for line in lines):
        _print_trainings(lines, run, console)
    # 3) what holds for several stages, once
    _print_shared(recipe, lines, console)
    memory = "GiB: training's peak with the fullest micro-batch, of one process"
    note = f"Expected (low to high); replies in the journal are left out where it tells. {memory}."
    spent = spent_by(recipe, run)
    already = f" Spent already: {cents(spent[''])} USD." if spent[""] else ""
    console.print(plain(f"{note} Budget: {divided(recipe)}.{already}"))
    expected = {line.name: row[2].expected for line, row in zip(lines, sums, strict=True)}
    if ends := where_it_ends(recipe, expected, spent):
        what = f"the budget is expected to end in {ends}, and the run stops there, unfinished"
        console.print(plain(f"warning: {what}; raise it, or ask for less."))
    # 4) what the machine lacks, behind the plan, which does not depend on it
    check_machine(recipe, {line.name for line in lines if not line.current}, console)


def _print_trainings(lines: list[StagePlan], run: RunDir, console: Any) -> None:
    """A line a training stage, and where its time is from."""
    from rich.box import SIMPLE
    from rich.table import Table

    rates = {
        line.name: measured_rate(run, line.flops / line.training.tokens)
        for line in lines
        if line.flops and line.training and line.training.tokens
    }
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("training")
    for name in ("rows", "validation", "steps", "epochs", "tokens", "time"):
        table.add_column(name, justify="right")
    for line in lines:
        if line.training is not None:
            plan, about = line.training, "" if line.training.exact else "~"
            rate = rates.get(line.name)
            seconds = rate.seconds(line.flops or 0.0, plan.steps) if rate else plan.seconds
            sign = "" if line.current or line.taken else "~"
            took = f"{sign}{duration(seconds)}" if seconds else ""
            counts = (plan.rows, plan.held_out, plan.steps, plan.epochs, exactly(plan.tokens))
            shown = (f"{num:g}" if isinstance(num, float) else str(num) for num in counts)
            table.add_row(line.name, *(about + num for num in shown), took)
    console.print(table)
    if rates:
        told = "; ".join(dict.fromkeys(map(str, rates.values())))
        console.print(
            plain(f"Times are estimates at {told}. ~ marks estimates and rows yet to be made.")
        )


def _print_shared(recipe: Recipe, lines: list[StagePlan], console: Any) -> None:
    """Processes, notes, detectable differences, the most that fits: once for all that share it."""
    stages = defaultdict[str, list[str]](list)
    for line in lines:
        launch, stage = recipe.launch_of(line.name), recipe.stages[line.name]
        runs = where(launch, stage, recipe.backends, line.memory_bytes)
        if runs and not (line.current or line.taken):
            stages[runs].append(line.name)
        if line.taken:
            stages[f"taken from {line.taken}, which has the same key"].append(line.name)
        if line.note:
            note = line.note.removesuffix(".")
            stages[f"the requests are not known yet: {note}"].append(line.name)
        if line.detectable:
            scores = ", ".join(f"{name} {least:.2g}" for name, least in line.detectable.items())
            stages[f"differences that can be shown (80 % power): {scores}"].append(line.name)
        if line.fits is not None:
            fits = f"the memory that is free now holds a tokens_per_batch of up to {line.fits}"
            stages[fits].append(line.name)
        for warning in line.warnings:
            stages[f"warning: {warning}"].append(line.name)
    for sentence, names in stages.items():
        console.print(plain(f"{', '.join(names)}: {sentence}."))


def line_sums(recipe: Recipe, line: StagePlan) -> tuple[Estimate, Estimate, Estimate]:
    """Requests, tokens and US dollars of a line."""
    requests, tokens, money = NO_ROWS, NO_ROWS, NO_ROWS
    for backend, calls in line.calls:
        requests += calls.num
        tokens += calls.tokens()
        money += price(calls, recipe.backends.get(backend))
    return requests, tokens, money
