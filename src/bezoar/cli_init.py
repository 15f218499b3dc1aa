"""The verbs before a first run: they write a recipe, and models that can be loaded."""

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
