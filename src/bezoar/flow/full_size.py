"""What the full size would need, from what a rehearsal saw: `bezoar plan` with the lengths of real
rows, the sizes of data sets on the Hub, and steps that were measured on this device."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from bezoar.data.source import Source
from bezoar.errors import BezoarError
from bezoar.flow.plan import NO_ROWS, StagePlan, line_sums, make_plan
from bezoar.flow.recipe import Recipe, base_of
from bezoar.flow.rehearsal import Rehearsal
from bezoar.flow.rundir import RunDir
from bezoar.flow.training_plan import expected
from bezoar.flow.training_time import Rate, duration, needed_flops
from bezoar.io import read_own
from bezoar.model.find import local_config
from bezoar.model.spec import ModelSpec
from bezoar.terminal import Console, plain
from bezoar.train.layer_shapes import Config
from bezoar.train.memory import available, llama_like
from bezoar.train.stages import Train


def print_full_size(rehearsal: Rehearsal, console: Console) -> None:
    """Print requests, money, memory, steps and hours of each stage, with totals."""
    # before anything touches the device in this process, which they are forked from
    rates, recipe = _rates(rehearsal), _with_sizes(rehearsal)
    try:
        # of the whole recipe, whatever a run has done already, whose folder is not looked at
        lines = make_plan(recipe, RunDir(rehearsal.place / "estimate" / recipe.name))
    except BezoarError as error:
        console.print(plain(f"no estimate of the full size: {error}"))
        return
    by_name = {line.name: line for line in lines}
    seconds = {
        line.name: _seconds(rehearsal, recipe, line, by_name[stage.rows], rates)
        for line in lines
        if isinstance(stage := recipe.stages[line.name], Train)
    }
    _print(recipe, lines, seconds, console)
    free, on_gpu = available()
    told = [f"{free / 2**30:.0f} GiB {'of the GPU' if on_gpu else 'of memory'} are free now."]
    told += [f"Time is that of training, at {rate}." for rate in dict.fromkeys(rates.values())]
    if any(_not_timed(recipe, name) for name in by_name.keys() - seconds.keys()):
        told.append(
            "Not timed, and not in the sum, is what language models on servers or on this machine"
            " write: rows, judgements, answers of evaluations and of PPO."
        )
    for name, stage in recipe.stages.items():
        if isinstance(stage, Source) and not by_name[name].rows:
            told.append(f"How many rows {name} will give is not known; set limit to see more.")
    console.print(plain(" ".join(told)))


def _print(
    recipe: Recipe, lines: list[StagePlan], seconds: Mapping[str, float], console: Console
) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    sums = [line_sums(recipe, line) for line in lines]
    requests, _, usd = (sum((row[i] for row in sums), NO_ROWS) for i in range(3))
    most = max((line.memory_bytes or 0 for line in lines), default=0)
    table = Table(box=SIMPLE, show_footer=True, pad_edge=False, title="At full size, about")
    table.add_column("stage", "all")
    table.add_column("rows", justify="right")
    table.add_column("requests", str(requests), justify="right")
    table.add_column("USD", usd.money(), justify="right")
    table.add_column("GiB", _gib(most), justify="right")
    table.add_column("steps", justify="right")
    training = _time(sum(seconds.values()))
    table.add_column("time", f"training: {training}" if training else "", justify="right")
    for line, (requests, _, usd) in zip(lines, sums, strict=True):
        steps = str(line.training.steps) if line.training and line.training.steps else ""
        cells = [str(line.rows or ""), str(requests or ""), usd.money() if usd else ""]
        took = _time(seconds.get(line.name, 0.0))
        if not took and _not_timed(recipe, line.name):
            took = "not timed"
        table.add_row(line.name, *cells, _gib(line.memory_bytes or 0), steps, took)
    console.print(table)


def _not_timed(recipe: Recipe, name: str) -> bool:
    """Whether a stage asks language models or computes with one."""
    return any(ref.kind in ("backend", "model") for ref in recipe.inputs(name))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f}" if num_bytes else ""


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else ""


def _seconds(
    rehearsal: Rehearsal,
    recipe: Recipe,
    line: StagePlan,
    source: StagePlan,
    rates: Mapping[str, Rate],
) -> float:
    """How long a training takes, whose line gets its steps; 0 where that is not known."""
    stage, run = recipe.stages[line.name], rehearsal.run_dir
    assert isinstance(stage, Train)
    lengths: list[float] = []
    if run.stage_dir(line.name):
        stats = read_own(run.output_dir(line.name) / "stats.json", token_lengths=list[float] | None)
        lengths = stats["token_lengths"] or []
    tokens = fmean(lengths) if lengths else source.row_tokens
    line.training, known = expected(recipe, stage, source.rows.expected, None, tokens)
    flops, rate = needed_flops(recipe, stage, line.training, known), rates.get(_kind(recipe, stage))
    return rate.seconds(flops, line.training.steps) if flops and rate else 0.0


def _kind(recipe: Recipe, stage: Train) -> str:
    """What a rate holds for: the base model, and whether an adapter or all weights train."""
    return f"{base_of(recipe, stage.model)}-{'all' if stage.adapter is None else 'adapter'}"


def _rates(rehearsal: Rehearsal) -> dict[str, Rate]:
    """A measured rate for each model that is trained, where its config is known."""
    recipe, rates = rehearsal.recipe, dict[str, Rate]()
    trainings = [stage for stage in recipe.stages.values() if isinstance(stage, Train)]
    for kind, stage in {_kind(recipe, stage): stage for stage in trainings}.items():
        spec = recipe.models[base_of(recipe, stage.model)]
        config = local_config(spec.path)
        if config is not None and llama_like(config):
            folder = rehearsal.place / "layers" / kind
            done = rehearsal.alone(partial(_measure, config, spec, stage, folder))
            if done.result:
                source = f"steps of one layer of {spec.path} ({kind}) at full width"
                rates[kind] = Rate(float(done.result), source)
    return rates


def _measure(config: Config, spec: ModelSpec, stage: Train, folder: Path) -> str:
    from bezoar.train.step_rate import layer_rate

    tokens = stage.tokens_per_batch
    return json.dumps(layer_rate(config, spec, stage.adapter, tokens=tokens, folder=folder))


def _size(stage: Source[Any]) -> str:
    return str(stage.hub_rows())


def _with_sizes(rehearsal: Rehearsal) -> Recipe:
    """The recipe with the number of rows that the Hub gives of each source without a limit."""
    recipe, stages = rehearsal.recipe, dict(rehearsal.recipe.stages)
    for name, stage in stages.items():
        if isinstance(stage, Source) and stage.limit is None and not stage.files():
            size = rehearsal.alone(partial(_size, stage)).result
            if size.isdigit() and not stage.count():
                stages[name] = replace(stage, limit=int(size)).below(recipe.path.parent)
    return replace(recipe, stages=stages)
