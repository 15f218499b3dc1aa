"""A command line as a person gives it."""

import io
from contextlib import redirect_stderr

from typer.testing import CliRunner

from bezoar import cli
from bezoar.cli import app


def bezoar(*words: object) -> str:
    """What a command prints; its error is raised."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: object) -> str:
    """What a command says on standard error when it ends with exit code 2."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception, done.output
    with redirect_stderr(io.StringIO()) as told:
        code = cli._code_of(done.exception)
    assert code == 2, told.getvalue()
    assert told.getvalue().count("\n") == 1
    return told.getvalue()


def ended(*words: object, **environment: str) -> tuple[int, str]:
    """The exit code of a command and what it said, whatever its end."""
    runner = CliRunner(env={"COLUMNS": "300", **environment})
    done = runner.invoke(app, [str(word) for word in words])
    with redirect_stderr(io.StringIO()) as told:
        code = cli._code_of(done.exception) if done.exception else done.exit_code
    assert "Traceback" not in told.getvalue()
    return code, done.output + told.getvalue()
