"""The verbs before a first run: they write a recipe, rehearse it, say what it costs, and
convert models."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="files of rows, a model's folder, a server as NAME@URL"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the recipe to write")] = Path("recipe.yaml"),
    model: Annotated[str, typer.Option(help="a model by its name on the Hub")] = "",
    key_env: Annotated[
        str, typer.Option(help="the environment variable with the server's API key")
    ] = "",
) -> None:
    """Look at your files and write a commented recipe for them."""
    from bezoar.flow.init import NOTHING_NAMED
    from bezoar.flow.init import init as write
    from bezoar.terminal import Console

    told = write(paths, out, model=model, key_env=key_env) if paths else [NOTHING_NAMED]
    Console().print("\n".join(told))


def convert(
    model: Annotated[str, typer.Argument(help="a model's folder, or its name on the Hub")],
    out: Annotated[
        Path | None,
        typer.Argument(help="the folder to write; of a name on the Hub by default bezoar's cache"),
    ] = None,
) -> None:
    """Make safetensors of pickled weights (.bin), and Falcon of RefinedWeb, running no code."""
    from bezoar.model.convert import convert as write
    from bezoar.terminal import Console, plain

    Console().print(plain(write(model, out)))


def rehearse(
    recipe: Annotated[Path, typer.Argument(help="a recipe file (recipes/demo.yaml)")],
    offline: Annotated[
        bool, typer.Option("--offline", help="ask no endpoint; a script answers in their place")
    ] = False,
) -> None:
    """Run a recipe as it is written, at toy size, and say what the full size would need."""
    from bezoar.flow.recipe import load_recipe
    from bezoar.flow.rehearse import rehearse as carry_out
    from bezoar.report import finish
    from bezoar.terminal import Console

    def report(folder: Path) -> None:
        finish(folder, Console(quiet=True))

    if not carry_out(load_recipe(recipe), Console(), offline=offline, report=report):
        raise typer.Exit(1)


def plan(
    recipe: Annotated[Path, typer.Argument(help="a recipe file (recipes/demo.yaml)")],
    out: Annotated[Path | None, typer.Option(help="the run directory; default runs/<name>")] = None,
    probe: Annotated[
        int, typer.Option(min=0, help="first ask for so many rows of each stage that is paid for")
    ] = 0,
) -> None:
    """Say what a run would do and cost; without --probe before anything is spent."""
    from bezoar.flow.plan import print_plan
    from bezoar.flow.quote_history import kept_before
    from bezoar.flow.recipe import load_recipe
    from bezoar.flow.run import default_run_dir
    from bezoar.terminal import Console

    loaded = load_recipe(recipe)
    run, tried = default_run_dir(loaded, out), None
    if probe:
        from bezoar.flow.probe import Probe

        asked = Probe(loaded, run, probe)
        asked.ask(Console())
        tried = asked.kept
    print_plan(loaded, run, Console(), kept_before(run, tried))
