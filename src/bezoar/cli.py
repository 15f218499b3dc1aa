"""The command line. Each verb gathers its arguments and calls one function; heavy imports stay
inside the verbs."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from bezoar import __version__, cli_eval
from bezoar.errors import BezoarError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "From a base model, seed data and feedback to an aligned, evaluated, explained language"
        " model."
    ),
)
RecipeArg = Annotated[Path, typer.Argument(help="a recipe file (recipes/demo.yaml)")]
RunArg = Annotated[Path, typer.Argument(help="a run directory (runs/demo) or its recipe file")]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log", help="show training also on tensorboard, wandb or trackio; may be given again"
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="the run directory; default runs/<name>")
]


@app.command()
def run(recipe: RecipeArg, out: OutOption = None, log: LogOption = None) -> None:
    """Bring every stage of a recipe up to date, then write the report and the cards."""
    from bezoar.flow.recipe import load_recipe
    from bezoar.flow.run import default_run_dir, run_recipe
    from bezoar.flow.rundir import RunDir
    from bezoar.report import finish
    from bezoar.terminal import Console

    console, loaded = Console(), load_recipe(recipe)
    place = RunDir(out) if out else default_run_dir(loaded)
    done = run_recipe(loaded, place, console=console, log=log or [])
    finish(place.path, console, changed=bool(done))


@app.command()
def plan(recipe: RecipeArg, out: OutOption = None) -> None:
    """Say what a run would do before anything is spent: stages, rows, requests, tokens, money,
    memory."""
    from bezoar.flow.plan import print_plan
    from bezoar.flow.recipe import load_recipe
    from bezoar.flow.run import default_run_dir
    from bezoar.flow.rundir import RunDir
    from bezoar.terminal import Console

    loaded = load_recipe(recipe)
    print_plan(loaded, RunDir(out) if out else default_run_dir(loaded), Console())


@app.command()
def why(recipe: RunArg, stage: Annotated[str, typer.Argument(help="the name of a stage")]) -> None:
    """Say what changed since a stage last ran."""
    from bezoar.flow.inspect_run import find_run
    from bezoar.flow.inspect_run import why as reasons
    from bezoar.terminal import Console

    loaded, place = find_run(recipe)
    Console().print("\n".join(reasons(loaded, place, stage)))


@app.command()
def rows(
    recipe: RunArg,
    stage: Annotated[str, typer.Argument(help="the name of a stage")],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="how many rows")] = 5,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="as tokens, the trained ones in colour")
    ] = False,
) -> None:
    """Print the rows of a stage as people read them."""
    from bezoar.flow.inspect_run import find_run, print_rows, print_tokens, stage_rows
    from bezoar.terminal import Console

    loaded, place = find_run(recipe)
    if tokens:
        print_tokens(loaded, place, stage, Console(), num=num)
    else:
        print_rows(stage_rows(loaded, place, stage, num), Console(), num=num)


@app.command()
def chat(
    run_dir: RunArg,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="a model or training stage; default the last one trained"
        ),
    ] = "",
    system: Annotated[str, typer.Option("--system", help="a system message")] = "",
    attributes: Annotated[
        str,
        typer.Option(
            "--attributes", help="levels for a model that is steered: helpfulness=4,verbosity=1"
        ),
    ] = "",
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0, max=100)] = 0.7,
) -> None:
    """Talk to a model of a run; answers stream."""
    from bezoar.flow.chat import converse, opening
    from bezoar.flow.inspect_run import find_run

    loaded, place = find_run(run_dir)
    converse(loaded, place, model, start=opening(system, attributes), temperature=temperature)


@app.command()
def ask(
    run_dir: RunArg,
    prompt: Annotated[str, typer.Argument(help="what to ask every model of the run")],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="a model; may be given again; default those evaluated"),
    ] = None,
) -> None:
    """Show the answers of a run's models to one prompt side by side."""
    from bezoar.flow.chat import side_by_side
    from bezoar.flow.inspect_run import find_run
    from bezoar.terminal import Console

    loaded, place = find_run(run_dir)
    side_by_side(loaded, place, prompt, models or [], Console())


app.command("eval")(cli_eval.evaluate)
app.command()(cli_eval.compare)
app.command()(cli_eval.leaderboard)


@app.command()
def export(
    run_dir: RunArg,
    model: Annotated[str, typer.Option("--model", "-m", help="a training stage")],
    out: Annotated[Path, typer.Option("--out", help="the folder to write")],
    check: Annotated[
        bool,
        typer.Option(help="compare the merge with the stack, and write none that differs too much"),
    ] = True,
) -> None:
    """Merge a trained stack into one model folder, and measure how far the merge is from the
    stack."""
    from bezoar.flow.export import export as write
    from bezoar.flow.inspect_run import find_run
    from bezoar.terminal import Console

    loaded, place = find_run(run_dir)
    write(loaded, place, model, out, check=check, console=Console())


@app.command()
def revise(
    model: Annotated[
        str,
        typer.Argument(help="what revises: a model folder, a packaged model, RUN:STAGE, MODEL@URL"),
    ],
    answers: Annotated[
        Path,
        typer.Argument(
            help="chats (JSON Lines, Parquet) or, with --questions, FastChat's answers of any model"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="the file of revised rows, with every iteration and its critique"
        ),
    ],
    times: Annotated[int, typer.Option("--times", min=1, help="iterations at most")] = 5,
    questions: Annotated[
        str, typer.Option("--questions", help="FastChat's question file, or bezoar:questions.jsonl")
    ] = "",
    turn: Annotated[
        int, typer.Option("--turn", min=1, max=2, help="which turn of the questions")
    ] = 1,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="of a critique with its revision")
    ] = 1024,
) -> None:
    """Criticise and revise answers again and again; the same command goes on after Ctrl-C."""
    from bezoar.flow.revise import revise_file
    from bezoar.terminal import Console

    revise_file(
        model,
        answers,
        out,
        questions=questions,
        turn=turn,
        times=times,
        max_tokens=max_tokens,
        console=Console(),
    )


@app.command()
def doctor() -> None:
    """Check every fast path of training on this machine against its slow reference, forward and
    gradient."""
    from bezoar.model.fast_paths import FLEX
    from bezoar.terminal import Console
    from bezoar.train.doctor import examine

    failed, checks, console = 0, examine(), Console()
    for check in checks:
        failed += not check.passed
        console.print(
            f"{'ok  ' if check.passed else 'FAIL'} {check.name} against {check.against}: forward"
            f" {check.forward:.1e}, gradient {check.gradient:.1e}, allowed {check.allowed:.0e},"
            f" {check.seconds:.1f} s" + (check.fault and f"; {check.fault}")
        )
    if not any(check.name == FLEX for check in checks):
        console.print(f"-    {FLEX}: used with CUDA alone, not checked here")
    if failed:
        console.print(
            "What failed is not used on this machine from now on; what has nothing in its place"
            " stops training."
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def explain(
    kind: Annotated[str, typer.Argument(help="a kind, such as dpo; without one, all of them")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="a JSON Schema of recipes")] = False,
) -> None:
    """Say what a kind of stage, objective, section or backend does, and what its keys mean."""
    from bezoar.flow.explain import print_kind, print_kinds
    from bezoar.flow.recipe_reference import schema_text
    from bezoar.terminal import Console, show

    if schema:
        show(schema_text())
    elif kind:
        print_kind(kind, Console())
    else:
        print_kinds(Console())


@app.command()
def report(run_dir: RunArg) -> None:
    """Write report.html and the cards of a run again."""
    from bezoar.flow.inspect_run import find_run
    from bezoar.report import finish
    from bezoar.terminal import Console

    _, place = find_run(run_dir)
    finish(place.path, Console(), changed=True)


@app.command()
def version() -> None:
    """Print the version."""
    from bezoar.terminal import Console

    Console().print(__version__)


def main() -> None:
    """Run the command line. A user's mistake is one sentence on standard error and exit code 2,
    unfinished work 3; 130 is for being stopped."""
    # waiting threads that spin starve each other where a core is shared; read by OpenMP when torch
    # is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from bezoar import stop, terminal

    try:
        terminal.prepare_streams()  # before anything is opened
        stop.listen()
        code = app(prog_name="bezoar", standalone_mode=False) or 0
        sys.stdout.flush()
    except BaseException as error:
        code = _code_of(error)
        terminal.flush()
    if stop.stopped():
        stop.leave()
    sys.exit(code)


def _code_of(error: BaseException) -> int:
    """The exit code for what ended a verb, told in one sentence where the user can do something
    about it."""
    from bezoar import stop, terminal
    from bezoar.io import failure

    code = 2
    if stop.stopped() or isinstance(error, (KeyboardInterrupt, BrokenPipeError)):
        code = stop.EXIT_CODE
    elif isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    elif isinstance(error, BezoarError):
        terminal.complain(error)
        code = error.exit_code
    elif isinstance(error, TyperException):
        _explain_usage(error)
    elif (
        isinstance(error, ModuleNotFoundError)
        and (package := (error.name or "bezoar").split(".")[0]) != "bezoar"
    ):
        extra = "eval" if package in ("lm_eval", "rouge_score", "sacrebleu") else "train"
        terminal.complain(
            f"the package {package} is not installed; run `pip install 'bezoar[{extra}]'`."
        )
    elif isinstance(error, OSError):
        terminal.complain(failure(error))
    # pathlib's word for ELOOP
    elif isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        terminal.complain(f"{error}: links that lead in a circle; check the path.")
    elif isinstance(error, MemoryError):
        terminal.complain(
            "no memory is left; close other programs or make the batches smaller, and run the same"
            " command to go on."
        )
    else:
        terminal.warn("".join(traceback.format_exception(error)))
        code = 1
    return code


def _explain_usage(error: TyperException) -> None:
    """One sentence with the verb and where its options are told; where no verb is named, the help
    that typer gives."""
    from bezoar import terminal

    context, said = getattr(error, "ctx", None), error.format_message()
    verb = context.command_path.removeprefix("bezoar").strip() if context else ""
    if "\n" in said:
        terminal.warn(said + "\n")
    else:
        place, usage = (f"{verb}: ", f"bezoar {verb} --help") if verb else ("", "bezoar --help")
        terminal.complain(f"{place}{said.rstrip('.')}; see {usage}.")
