"""The verbs about replies that are there already: the journal, reading it again, and where a row
comes from."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

journal = typer.Typer(
    no_args_is_help=True, help="Look at, search, export and prune the replies of language models."
)
PlaceArg = Annotated[
    Path, typer.Argument(help="a run directory or recipe (what it asked), or a journal.sqlite")
]
StageOption = Annotated[str, typer.Option("--stage", help="what this stage asked")]
ModelOption = Annotated[str, typer.Option("--model", help="a part of a model's name or address")]
FailedOption = Annotated[bool, typer.Option("--failed", help="only what failed")]
NumOption = Annotated[int, typer.Option("--num", "-n", min=1, help="how many, the newest first")]


@journal.command()
def show(
    place: PlaceArg,
    key: Annotated[str, typer.Argument(help="one entry whole, by its key or its beginning")] = "",
    stage: StageOption = "",
    model: ModelOption = "",
    failed: FailedOption = False,
    num: NumOption = 20,
) -> None:
    """Print entries, a question and its answer each; with a key, all of it."""
    from bezoar.errors import DataError
    from bezoar.flow.journal_view import choose, one_line, whole
    from bezoar.llm.journal_upkeep import JournalUpkeep
    from bezoar.terminal import Console, plain

    path, choice = choose(place, stage=stage, model=model, key=key, failed=failed)
    with JournalUpkeep(path) as opened:
        entries = list(islice(opened.chosen(choice, newest=True), num))
        for entry in entries:
            Console().print(plain("\n".join(whole(entry)) if key else one_line(entry)))
        total = opened.num_chosen(choice)
    if key and not entries:
        raise DataError(f"{path}: no entry has a key that begins with {key}; see `journal show`.")
    if not key:
        Console().print(plain(f"{len(entries)} of {total} entries in {path}"))


@journal.command()
def search(
    place: PlaceArg,
    text: Annotated[str, typer.Argument(help="what a question or an answer holds")],
    stage: StageOption = "",
    model: ModelOption = "",
    failed: FailedOption = False,
    num: NumOption = 20,
) -> None:
    """Print the entries whose question or answer holds a text, in whatever case."""
    from bezoar.flow.journal_view import choose, one_line
    from bezoar.flow.journal_view import search as found_in
    from bezoar.llm.journal_upkeep import JournalUpkeep
    from bezoar.terminal import Console, plain

    path, choice = choose(place, stage=stage, model=model, failed=failed)
    with JournalUpkeep(path) as opened:
        found = 0
        for found, entry in enumerate(found_in(opened, choice, text), 1):
            if found <= num:
                Console().print(plain(one_line(entry)))
    Console().print(plain(f"{min(found, num)} of {found} entries that hold it, in {path}"))


@journal.command()
def export(
    place: PlaceArg,
    out: Annotated[Path, typer.Argument(help="the JSON Lines file to write")],
    stage: StageOption = "",
    model: ModelOption = "",
    failed: FailedOption = False,
) -> None:
    """Write entries with their questions, answers and prices to a file of JSON Lines."""
    from bezoar.flow.journal_view import choose
    from bezoar.flow.journal_view import export as write
    from bezoar.llm.journal_upkeep import JournalUpkeep
    from bezoar.terminal import Console, plain

    path, choice = choose(place, stage=stage, model=model, failed=failed)
    with JournalUpkeep(path) as opened:
        Console().print(plain(f"{write(opened, choice, out)} entries: {out}"))


@journal.command()
def prune(
    place: PlaceArg,
    stage: StageOption = "",
    model: ModelOption = "",
    before: Annotated[str, typer.Option(help="asked before this day, such as 2026-01-31")] = "",
    key: Annotated[str, typer.Option(help="the entries of this key")] = "",
    failed: FailedOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove them; else they are counted")] = False,
) -> None:
    """Remove entries: those that nobody reads any more, or those that are named. What they have
    cost stays spent."""
    from dataclasses import replace

    from bezoar.cost import cents
    from bezoar.flow.journal_view import choose, day
    from bezoar.llm.journal_upkeep import JournalUpkeep
    from bezoar.terminal import Console, plain

    path, choice = choose(place, stage=stage, model=model, key=key, failed=failed)
    with JournalUpkeep(path) as opened:
        pruned = opened.prune(replace(choice, before_s=day(before)), remove=yes)
    told = f"{pruned.num} entries {'removed' if yes else 'would be removed; --yes removes them'}"
    if pruned.num_answers:
        told += (
            f"; {pruned.num_answers:.0f} of them are answers, which a stage that needs them asks"
        )
        told += f" and pays again ({cents(pruned.usd)} USD)"
    Console().print(plain(f"{told}: {path}"))


def reparse(
    run: Annotated[str, typer.Argument(help="a run directory or recipe; may be left out")],
    stage: Annotated[str, typer.Argument(help="the name of a stage that asked")] = "",
) -> None:
    """Read the stored replies of a stage again with the parser as it is now; nothing is asked."""
    from bezoar.flow.inspect_run import find_named
    from bezoar.flow.reparse import reparse as read_again
    from bezoar.terminal import Console, plain

    Console().print(plain("\n".join(read_again(*find_named(run, stage)))))


def trace(
    run: Annotated[str, typer.Argument(help="a run directory or recipe; may be left out")],
    row: Annotated[str, typer.Argument(help="the id of a row, as `bezoar rows` shows it")] = "",
    stage: Annotated[str, typer.Option(help="the stage, where several have such a row")] = "",
) -> None:
    """Say where a row comes from: seeds and licence, scheme, requests with their journal keys, the
    judge's verdict, and what it cost."""
    from bezoar.flow.inspect_run import find_named
    from bezoar.flow.trace import trace as told
    from bezoar.terminal import Console, plain

    for line in told(*find_named(run, row), stage):
        Console().print(plain(line))


def add_to(app: typer.Typer) -> None:
    """Make these verbs of the command line."""
    app.add_typer(journal, name="journal")
    app.command()(reparse)
    app.command()(trace)
