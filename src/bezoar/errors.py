"""The errors a user can meet. Each message is one sentence that names the place and what to do."""


class BezoarError(Exception):
    """A user's mistake or an outside failure: the user sees the message and gets `exit_code`."""

    exit_code = 2


class RecipeError(BezoarError):
    """A recipe, a setting or a run directory is wrong."""


class DataError(BezoarError):
    """A row, a file or a chat template is wrong."""


class EmptyStageError(DataError):
    """A stage kept no row: the same command would keep none again."""


class EndpointError(BezoarError):
    """A language model could not be reached or refuses to answer."""


class UnfinishedError(EndpointError):
    """Work stopped for a reason that can pass: nothing is lost, and the same command goes on."""

    exit_code = 3


class BudgetError(UnfinishedError):
    """What a run may spend does not cover what is left to ask; a larger budget goes on."""


class TrainingError(BezoarError):
    """A training stage cannot go on."""


def brief(text: str, most: int = 400) -> str:
    """`text` by others, for a message: on one line, without its middle if longer than `most`."""
    # the end is kept: it often says why, and where
    line = text.replace("\n", "\\n").replace("\r", "\\r")
    return line if len(line) <= most else f"{line[: most - 120]} ... {line[-115:]}"


def first_line(error: BaseException) -> str:
    """What an error of a library says, for the inside of a sentence."""
    return brief((str(error).strip() or type(error).__name__).split("\n")[0].rstrip("."), 200)
