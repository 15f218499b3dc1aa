"""What people ask between runs: why a stage would run again, and its rows as people read them."""

import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import AnyRow, Chat, Comparison, Message
from bezoar.errors import BezoarError, RecipeError
from bezoar.flow.cache_key import all_keys, changed
from bezoar.flow.recipe import Recipe, base_of, load_recipe, trained
from bezoar.flow.rundir import RunDir
from bezoar.io import Row, read_own
from bezoar.model.tokenizer import load_tokenizer
from bezoar.references import unknown
from bezoar.terminal import head, one_line, plain
from bezoar.train.settings import no_step_better
from bezoar.train.stages import Train

_LOSSES = "first_loss", "last_loss", "start_validation_loss", "best_validation_loss"


def why(recipe: Recipe, run: RunDir, stage: str) -> list[str]:
    """Lines that say whether a stage is current and, if not, what changed since it ran."""
    check_stage(recipe, stage)
    stored = run.stored(stage)
    if not stored:
        return [f"{stage} would run: it has no output in {run.path} yet"]
    keys, parts = all_keys(recipe)
    if stored["key"] == keys[stage]:
        return [f"{stage} is current: nothing it depends on changed since {stored['finished']}"]
    lines = [f"{stage} would run again, because:"]
    lines += [f"  {line}" for line in changed(stored["parts"], parts[stage])]
    for upstream in recipe.upstream(stage):
        if run.stored(upstream).get("key") != keys[upstream]:
            lines += [f"  {line}" for line in why(recipe, run, upstream)]
    return lines


def check_stage(recipe: Recipe, stage: str) -> None:
    """RecipeError, with the stages that there are, unless `stage` is one."""
    if stage not in recipe.stages:
        raise RecipeError(f"{recipe.path}: {unknown(stage, 'stage', recipe.stages)}")


def print_stage(recipe: Recipe, run: RunDir, stage: str, console: Any, *, num: int) -> None:
    """Print the first `num` rows of a stage, or what a training or an evaluation has to show."""
    if run.stage_dir(stage) is None:
        check_stage(recipe, stage)
    folder, gives = run.output_dir(stage), recipe.stages.get(stage)
    tell_earlier(recipe, run, stage, console)
    if gives is None or gives.gives == "rows":
        print_rows(list(islice(run.stored_rows(stage), num)), console)
    else:
        lines = _trained(recipe, run, stage) if gives.gives == "model" else _scored(folder)
        console.print(plain("\n".join([*lines, f"everything else: {folder}"])))


def tell_earlier(recipe: Recipe, run: RunDir, stage: str, console: Any) -> None:
    """Say so if the output of a stage is not that of the recipe as it is now."""
    try:
        key = all_keys(recipe)[0].get(stage)
    except (BezoarError, OSError):  # a file of the recipe is gone; what came of it can be read
        key = None
    if run.stored(stage)["key"] != key if key else run.is_earlier(stage):
        what = f"{stage}: this is the output of earlier settings"
        console.print(plain(f"{what}; `bezoar why {run.path} {stage}` says what changed."))


def _trained(recipe: Recipe, run: RunDir, stage: str) -> list[str]:
    folder, settings = run.output_dir(stage), trained(recipe, stage)
    numbers = dict.fromkeys(("rows_trained", "rows_validation", "steps"), int | None)
    losses = dict.fromkeys(_LOSSES, float | None)
    stats = read_own(folder / "stats.json", **numbers, **losses)
    warning = no_step_better(stats)
    figures = [(name, stats[name]) for name in (*numbers, *losses) if stats[name] is not None]
    listed = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures]
    result = next((n for n in ("adapter", "model") if (folder / n).is_dir()), "")
    return [
        f"{stage} is a training stage: it gives a model and no rows of its own.",
        f"metrics: {', '.join(listed) or 'none'}; every step is in {run.path / 'metrics.jsonl'}",
        *([f"warning: {warning}"] if warning else []),
        f"result: {folder / result}",
        f"the rows it trained on: bezoar rows {run.path} {settings.rows}",
        f"the same as tokens, the trained ones marked: bezoar rows {run.path} {stage} --tokens",
        f"rows that were left out: {folder / 'failures.jsonl'}",
        f"talk to it: bezoar chat {run.path} --model {stage}",
    ]


def _scored(folder: Path) -> list[str]:
    rows = read_own(folder / "scores.json", scores=list[Row])["scores"]
    scores = [
        f"  {s['name']}: {s['value']:.4g} (n = {s['n']})" for s in rows if s["value"] is not None
    ]
    lines = ["an evaluation gives scores and no rows:", *scores]
    return [*lines, f"the value of each item: {folder / 'items.jsonl'}"]


def find_run(path: Path) -> tuple[Recipe, RunDir]:
    """The run directory `path`, or that of the recipe file `path`, with its recipe."""
    if path.is_dir():
        if not (path / "resolved.json").exists():
            what = "no run directory (resolved.json is missing)"
            raise RecipeError(f"{path}: {what}; name one made by `bezoar run`.")
        written = Path(read_own(path / "resolved.json", recipe=str)["recipe"])
        source = written if os.access(written, os.R_OK) else path / "recipe.yaml"
        return load_recipe(source), RunDir(path)
    recipe = load_recipe(path)
    return recipe, RunDir(Path("runs") / recipe.name)


def find_named(first: str, second: str) -> tuple[Recipe, RunDir, str]:
    """A run and the name in it that two words mean; one alone is a name in the only run here."""
    if second:
        return *find_run(Path(first)), second
    runs = sorted(path.parent for path in Path("runs").glob("*/resolved.json"))
    if len(runs) != 1:
        listed = f"runs/ has {len(runs)} of them" if runs else "there is none in runs/"
        raise RecipeError(f"{first}: which run is meant ({listed})? Name it before {first}.")
    return *find_run(runs[0]), first


def print_rows(items: Iterable[AnyRow], console: Any) -> None:
    """Print rows: each turn with its role, and the row's provenance."""
    for item in items:
        head(item.id, console)
        for message in item.messages if isinstance(item, Chat) else item.prompt:
            _print_turn(message, console)
        for label, text in _answers(item):
            console.print(*label, plain(text))
        console.print(plain(one_line(", ".join(f"{k}={v}" for k, v in item.meta.items())), "dim"))


def _answers(item: AnyRow) -> list[tuple[list[Any], str]]:
    """(label in its colours, text) of every answer that stands beside the prompt."""
    if isinstance(item, Comparison):
        return [
            ([plain("chosen  ", "green")], item.chosen),
            ([plain("rejected", "red")], item.rejected),
        ]
    if isinstance(item, Chat):
        return []
    numbers = [
        ", ".join(f"{name} {values[i]:.4g}" for name, values in item.numbers.items())
        for i in range(len(item.answers))
    ]
    return [
        ([plain(f"answer {i}", "green"), plain(figures, "dim")], text)
        for i, (figures, text) in enumerate(zip(numbers, item.answers, strict=True), 1)
    ]


def _print_turn(message: Message, console: Any) -> None:
    colours = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}
    console.print(plain(message.role, colours[message.role]), plain(write_answer(message)))
    for tool in message.tools:
        inner = tool.to_json()["function"]
        console.print(plain("tool", "magenta"), plain(json.dumps(inner, ensure_ascii=False)))


def print_tokens(recipe: Recipe, run: RunDir, stage: str, console: Any, *, num: int) -> None:
    """Print rows of a training stage as tokens, the trained ones in colour or brackets; needs
    the model's tokenizer."""
    check_stage(recipe, stage)
    stages = [s for s in recipe.stages.values() if isinstance(s, Train)]
    readers = [s for s in stages if recipe.stages[stage] is s or s.rows == stage]
    if not readers:
        what = f"no training stage reads the rows of {stage}"
        raise RecipeError(f"{recipe.path}: {what}; name one that does.")
    # only the tokenizer of the base is read: rows can be looked at before anything is trained
    spec, _ = run.model(recipe, base_of(recipe, readers[0].model))
    tokenizer = load_tokenizer(spec.path, spec.add_tokens)
    tell_earlier(recipe, run, readers[0].rows, console)
    for item in list(islice(run.stored_rows(readers[0].rows), num)):
        group = readers[0].objective.group(item, recipe.template, tokenizer)
        head(item.id, console)
        parts = [(group.prompt, [False] * len(group.prompt))]
        parts += [(completion.tokens, completion.trained) for completion in group.completions]
        for tokens, flags in parts:
            line = plain("")
            for token, flag in zip(tokens, flags, strict=True):
                text = tokenizer.decode([token], markers=True)
                # without colours brackets stand around what is trained
                shown = f"[{text}]" if flag and not console.color_system else text
                line.append_text(plain(shown, "black on green" if flag else "dim"))
            console.print(line)
