"""A command line as a person gives it."""

from typer.testing import CliRunner

from bezoar.cli import app


def bezoar(*words: object) -> str:
    """What a command prints; its error is raised."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output
