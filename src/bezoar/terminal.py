"""What reaches a terminal: visible text and our own colours; `[markup]` in a string is text.

Rows, replies, names and paths were written by others; ESC, BEL, C1 or bidirectional marks in them
could move the cursor, set the clipboard or show a line that is not there. Nothing outside this file
prints or makes a console.
"""

import os
import re
import sys
from typing import Any, TextIO

from rich.console import Console as _Console
from rich.text import Text

from bezoar.errors import brief
from bezoar.secrets import mask

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PIPE_WIDTH = 1 << 16
"""Columns if it is no terminal: a line stays a line for the program that reads it."""
_MOST_TOLD = 2000  # characters of one sentence


def visible(text: object) -> str:
    """`text` with escapes (`\\x1b`) for all but newline, tab and what a terminal just shows."""
    return _HIDDEN.sub(_escape, str(text))


def one_line(text: object) -> str:
    """`visible`, with newlines and tabs as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def plain(text: object, style: str = "") -> Text:
    """Visible text in one style, for a table's cell or a part of a line."""
    return Text(visible(text), style)


class Console(_Console):
    """Prints only visible text. Into a pipe nothing is wrapped; a reader that leaves stops us."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})
        # rich would cut lines at 80 columns, and a program could not find them again
        if not self.is_terminal and "width" not in settings:
            self.width, self.soft_wrap = _PIPE_WIDTH, True

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string that is printed, and every one in a table, comes through here."""
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        silence()
        raise KeyboardInterrupt


def head(title: str, console: _Console) -> None:
    """Print a line that begins a new part."""
    if console.is_terminal:
        console.rule(plain(one_line(title)))
    else:
        console.print(plain(f"--- {one_line(title)}"))


def show(piece: str) -> None:
    """Print a piece of a longer text at once; escape sequences in pieces have no effect either."""
    try:
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        raise KeyboardInterrupt from None


def complain(sentence: object) -> None:
    """One line on standard error, without our keys and of a bounded length."""
    warn(f"bezoar: {one_line(brief(mask(str(sentence)), _MOST_TOLD))}\n")


def warn(text: str) -> None:
    """Text on standard error, without our keys; if nobody can read it, the exit code must do."""
    try:
        sys.stderr.write(visible(mask(text)))
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def prepare_streams() -> None:
    """Make the standard streams take any text, if need be as escapes; closed ones lead nowhere."""
    names = {"stdin": "surrogateescape", "stdout": "backslashreplace", "stderr": "backslashreplace"}
    for number, (name, errors) in enumerate(names.items()):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                # takes the lowest free number, so that no file of ours becomes standard output
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(os.devnull, "r+" if number else "r", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def flush() -> None:
    """Print what is left, if that can still be done."""
    try:
        sys.stdout.flush()
    except OSError:
        silence()


def silence(stream: TextIO | None = None) -> None:
    """Lead a stream, by default standard output, nowhere, so that its buffer can be dropped."""
    # a closed stream would raise once more when Python flushes it at its end
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
    except (OSError, ValueError):
        return
