"""Files of anyone's answers, a text an item, which stand in for a model.

A line is {id, text}, the leaderboard's {id, result} or IFEval's {prompt, response}. A result of
calls by name, as the leaderboard stores those of an API, and one in Python's words, as its prompt
asks for, become the text that a Hermes model would write.
"""

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from bezoar.chat.api_calls import written_calls
from bezoar.chat.types import Messages
from bezoar.data.rows import RowOrigin, read_file
from bezoar.errors import DataError
from bezoar.io import Row
from bezoar.llm.types import Ask, Reply, Request

_IDS, _TEXTS = ("id", "key", "prompt"), ("text", "result", "response")


def has_texts(row: Row) -> bool:
    """Whether a file with this first row holds a text an item."""
    return any(name in row for name in _IDS) and any(name in row for name in _TEXTS)


def given_texts(path: Path, prompts: Mapping[str, Messages]) -> Ask:
    """What answers each of `prompts`, by its id or by its last message; what the file lacks is a
    failed reply. DataError for a file that answers none of them."""
    known = {str(name): messages for name, messages in prompts.items()}
    # files of other tools name an item by its words
    known |= {messages[-1].content: messages for messages in prompts.values()}
    replies: dict[Messages, Reply] = {}
    seen: set[str] = set()
    for at, row in read_file(path, path.stem):
        name = next((str(row[key]) for key in _IDS if key in row), "")
        # which of two counts would be a guess
        if name in seen:
            raise at.wrong(f"{name[:60]!r} is answered twice; remove one.")
        seen.add(name)
        if name in known:
            # without a number of tokens nothing is known of how it ended
            replies[known[name]] = Reply(_text(row, at))
    if not replies:
        raise DataError(f"{path}: it answers none of the items; check their ids and the files.")
    absent = Reply(finish="error", error=f"no answer in {path.name}", failure="refused")

    def ask(requests: Sequence[Request]) -> list[Reply]:
        return [replies.get(request.messages, absent) for request in requests]

    return ask


def _text(row: Row, at: RowOrigin) -> str:
    value = next((row[key] for key in _TEXTS if key in row), None)
    if isinstance(value, str):
        calls = _python_calls(value)
        return written_calls("", calls) if calls else value
    if isinstance(value, list) and all(isinstance(call, dict) for call in value):
        pairs = [pair for call in value for pair in call.items()]
        texts = [(name, a if isinstance(a, str) else json.dumps(a)) for name, a in pairs]
        return written_calls("", texts)
    raise at.wrong(f"no text and no list of calls in {', '.join(_TEXTS)}; mend the line.")


def _python_calls(text: str) -> list[tuple[str, str]]:
    """The calls of a text that is nothing but `[f(a=1), g.h()]`; none for any other text."""
    # prompts ask for a list, and models leave out its brackets or fence it as code
    inner = text.strip().strip("`\n ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in what is no program
        try:
            tree = ast.parse(inner if inner.startswith("[") else f"[{inner}]", mode="eval").body
            calls = tree.elts if isinstance(tree, ast.List) else []
            return [_python_call(call) for call in calls]
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
            return []


def _python_call(call: ast.expr) -> tuple[str, str]:
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise ValueError("not a call with named arguments")
    arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    # what JSON cannot hold (a set, bytes, infinity) is no argument
    return ast.unparse(call.func), json.dumps(arguments, allow_nan=False)
