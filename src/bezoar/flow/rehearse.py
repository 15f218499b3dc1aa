"""What `bezoar rehearse` prints: what each part of a recipe proved, and the first fault."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from bezoar.cost import cents
from bezoar.evals.lm_eval import registry
from bezoar.flow.full_size import print_full_size
from bezoar.flow.recipe import Recipe
from bezoar.flow.rehearsal import Rehearsal
from bezoar.flow.rehearsal_record import note_rehearsed
from bezoar.llm.local import Local
from bezoar.progress import Progress
from bezoar.terminal import Console, plain

_LIBRARIES: tuple[str, ...] = (
    "datasets",
    "bezoar.flow.export",
    "bezoar.model.merge",
    "bezoar.model.stand_in",
)
_LIBRARIES += (
    "bezoar.train.supervised_trainer",
    "bezoar.train.ppo_trainer",
    "bezoar.train.group_trainer",
    "lm_eval.evaluator",
)
"""Loaded once: every part has a process of its own, forked from this one."""


def rehearse(
    recipe: Recipe, console: Console, *, offline: bool, report: Callable[[Path], None]
) -> bool:
    """Rehearse a recipe, print what was found, and say whether all of it works."""
    computed = recipe.models or any(isinstance(b, Local) for b in recipe.backends.values())
    # loading this one makes use of the device, which a forked process then could not
    more = () if Path("/dev/nvidiactl").exists() else ("bitsandbytes",)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    for name in (*_LIBRARIES, *more) if computed else ():
        with suppress(ImportError):  # the stage that needs it says what to install
            import_module(name)
    parts = (getattr(stage, "lm_eval", None) for stage in recipe.stages.values())
    if any(not task.path for part in parts if part for task in part.tasks):
        registry()
    with TemporaryDirectory(prefix="bezoar-rehearsal-", ignore_cleanup_errors=True) as place:
        rehearsal = Rehearsal(recipe, Path(os.path.realpath(place)), offline, report)
        with Progress("rehearsal", console=console).bar("of", len(recipe.stages)) as advance:
            for line in rehearsal.run():
                advance(line.name in recipe.stages, line.name)
        passed = _print(rehearsal, console)
        print_full_size(rehearsal, console)
    return passed


def _print(rehearsal: Rehearsal, console: Console) -> bool:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("part", "result", "what was proved, or what is wrong", box=SIMPLE, pad_edge=False)
    table.add_column("s", justify="right")
    for name, proved, fault, seconds, needs in rehearsal.lines:
        result = "ok" if proved else "FAULT" if fault else "not tried"
        what = proved or fault or f"it needs {needs}"
        table.add_row(name, result, plain(what), "" if needs else f"{seconds:.1f}")
    console.print(table)
    for name in rehearsal.recipe.backends:
        if asked := rehearsal.questions(name):
            usd = ", ".join(cents(row["usd"]) for row in asked)
            tokens = sum(row["tokens"] for row in asked)
            console.print(plain(f"{name}: {len(asked)} questions, {tokens} tokens, USD {usd}."))
    faults = [line.fault for line in rehearsal.lines if line.fault]
    if faults:
        left_out = sum(bool(line.needs) for line in rehearsal.lines)
        counts = f"{len(faults)} of {len(rehearsal.lines)} parts failed"
        console.print(plain(f"{counts}, and {left_out} that need them were not tried."))
        console.print(plain(f"first fault: {faults[0]}"))
    else:
        note_rehearsed(rehearsal.recipe)
    return not faults
