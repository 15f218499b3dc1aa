"""The command line. Each verb calls one function; heavy imports stay inside the verbs."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from bezoar import __version__, cli_eval, cli_init, cli_journal
from bezoar.errors import BezoarError, EmptyStageError, UnfinishedError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a base model, seed data and feedback to an aligned, evaluated, explained model.",
)
RecipeArg = Annotated[Path, typer.Argument(help="a recipe file (recipes/demo.yaml)")]
RunArg = Annotated[Path, typer.Argument(help="a run directory (runs/demo) or its recipe file")]
SchemaOption = Annotated[Path | None, typer.Option(help="JSON mode: answers are held to this file")]
StageArg = Annotated[str, typer.Argument(help="the name of a stage")]
ToolsOption = Annotated[str, typer.Option(help="FILE or bezoar:tools.jsonl, also FILE#NAME,NAME")]
LogOption = Annotated[
    list[str] | None,
    typer.Option(help="show training also on tensorboard, wandb or trackio; may be given again"),
]
OutOption = Annotated[Path | None, typer.Option(help="the run directory; default runs/<name>")]


@app.command()
def run(recipe: RecipeArg, out: OutOption = None, log: LogOption = None) -> None:
    """Bring every stage of a recipe up to date, then write the report and the cards."""
    from bezoar.flow.launch import join_hosts
    from bezoar.flow.rank import follow, leading
    from bezoar.flow.recipe import load_recipe
    from bezoar.flow.run import default_run_dir, run_recipe
    from bezoar.report import finish
    from bezoar.terminal import Console

    follow()
    with leading():
        console, loaded = Console(), load_recipe(recipe)
        join_hosts(loaded.launch)
        run_dir = default_run_dir(loaded, out)
        try:
            done = run_recipe(loaded, run_dir, console=console, log=log or [])
        except (UnfinishedError, EmptyStageError):
            # what there is was paid for: it is shown before the error is told
            finish(run_dir.path, console)
            raise
        finish(run_dir.path, console, changed=bool(done))


app.command()(cli_init.init)
app.command()(cli_init.convert)
app.command()(cli_init.rehearse)
app.command()(cli_init.plan)


@app.command()
def why(recipe: RunArg, stage: StageArg) -> None:
    """Say what changed since a stage last ran."""
    from bezoar.flow.inspect_run import find_run
    from bezoar.flow.inspect_run import why as reasons
    from bezoar.terminal import Console

    Console().print("\n".join(reasons(*find_run(recipe), stage)))


@app.command()
def rows(
    recipe: RunArg,
    stage: StageArg,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="how many rows")] = 5,
    tokens: Annotated[bool, typer.Option("--tokens", help="as tokens, trained in [ ]")] = False,
) -> None:
    """Print the rows of a stage as people read them."""
    from bezoar.flow.inspect_run import find_run, print_stage, print_tokens
    from bezoar.terminal import Console

    loaded, run_dir = find_run(recipe)
    if tokens:
        print_tokens(loaded, run_dir, stage, Console(), num=num)
    else:
        print_stage(loaded, run_dir, stage, Console(), num=num)


@app.command()
def chat(
    run_dir: RunArg,
    model: Annotated[str, typer.Option("--model", "-m", help="default the last one trained")] = "",
    system: Annotated[str, typer.Option(help="a system message")] = "",
    attributes: Annotated[str, typer.Option(help="levels: helpfulness=4,verbosity=1")] = "",
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0, max=100)] = 0.7,
    tools: ToolsOption = "",
    schema: SchemaOption = None,
) -> None:
    """Talk to a model of a run; answers stream, and calls of tools are executed."""
    from bezoar.flow.chat import converse, opening
    from bezoar.flow.inspect_run import find_run

    start = opening(system, attributes, schema)
    converse(*find_run(run_dir), model, start=start, temperature=temperature, tools=tools)


@app.command()
def ask(
    run_dir: RunArg,
    prompt: Annotated[str, typer.Argument(help="what to ask every model of the run")],
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="one or more; default the evaluated")
    ] = None,
    tools: ToolsOption = "",
    schema: SchemaOption = None,
) -> None:
    """Show the answers of a run's models to one prompt side by side."""
    from bezoar.flow.chat import opening, side_by_side
    from bezoar.flow.inspect_run import find_run
    from bezoar.terminal import Console

    names, start = models or [], opening("", "", schema)
    side_by_side(*find_run(run_dir), prompt, names, Console(), tools, start)


app.command("eval")(cli_eval.evaluate)
app.command()(cli_eval.compare)
app.command()(cli_eval.leaderboard)


@app.command()
def export(
    run_dir: RunArg,
    model: Annotated[str, typer.Option("--model", "-m", help="a training stage")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="all its adapters as one LoRA, for peft and vLLM")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="compare merge and stack; nothing is written if they differ")
    ] = True,
) -> None:
    """Write a trained model for other tools, with template, end token and card: merged, or as one
    adapter."""
    from functools import partial

    from bezoar.flow.export import export as write
    from bezoar.flow.inspect_run import find_run
    from bezoar.report.cards import exported_card
    from bezoar.terminal import Console

    recipe, run = find_run(run_dir)
    card = partial(exported_card, run.path, model, merged=not adapter)
    write(recipe, run, model, out, adapter=adapter, check=check, card=card, console=Console())


app.command()(cli_eval.revise)
cli_journal.add_to(app)


@app.command()
def doctor() -> None:
    """Check the fast paths of training on this machine against their slow references."""
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
    # said even so: a user with a GPU that torch does not see would take silence for a pass
    if not any(check.name == FLEX for check in checks):
        console.print(f"-    {FLEX}: used only with CUDA, not checked here")
    if failed:
        effect = "Failed paths are no longer used here; failures without a fallback stop training."
        console.print(effect)
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

    _, run = find_run(run_dir)
    finish(run.path, Console(), changed=True)


@app.command()
def version() -> None:
    """Print the version."""
    from bezoar.terminal import Console

    Console().print(__version__)


def main() -> None:
    """Run the command line. Exit code 2 is a user's mistake, told in one sentence on standard
    error, 3 unfinished work, 130 being stopped."""
    # read by OpenMP when torch is loaded: spinning threads starve each other on shared cores
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
    """The exit code for what ended a verb; prints one sentence if the user can do something."""
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
        advice = "close other programs or make the batches smaller, then run the command again"
        terminal.complain(f"no memory is left; {advice}.")
    else:
        terminal.warn("".join(traceback.format_exception(error)))
        code = 1
    return code


def _explain_usage(error: TyperException) -> None:
    """One sentence that names the verb's help; without a verb, the help that typer gives."""
    from bezoar import terminal

    context, message = getattr(error, "ctx", None), error.format_message()
    verb = context.command_path.removeprefix("bezoar").strip() if context else ""
    if "\n" in message:
        terminal.warn(message + "\n")
    else:
        start, usage = (f"{verb}: ", f"bezoar {verb} --help") if verb else ("", "bezoar --help")
        terminal.complain(f"{start}{message.rstrip('.')}; see {usage}.")
