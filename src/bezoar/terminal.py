"""What reaches a terminal: visible text and our own colours; `[markup]` in a string is text.

Rows, replies, names and paths were written by others; ESC, BEL, C1 or bidirectional marks in them
could move the cursor, set the clipboard or show a line that is not there. Nothing outside this file
prints or makes a console.
"""

import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console as _Console
from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.text import Text

from bezoar.errors import brief
from bezoar.secrets import mask

if TYPE_CHECKING:
    from rich.table import Column, Table

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PIPE_WIDTH = 1 << 16
"""Columns if it is no terminal: a line stays a line for the program that reads it."""
_MOST_TOLD = 2000  # characters of one sentence
_UNIT = re.compile(r"\[[^\[\]\n]{0,40}\]|\S+")
"""What is never broken: an interval in brackets, a word or a number."""
_MOST_BREAKS = 2
"""More line ends in a cell are harder to read than a block."""


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
    """Prints only visible text. Into a pipe no sentence is wrapped; a reader that leaves stops us.

    Tables are as wide as the terminal, in a pipe as COLUMNS says or 80, and always whole.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})
        # rich takes COLUMNS, or 80 where nobody says
        self.table_width = self.width
        # rich would cut lines at 80 columns, and a program could not find them again
        if not self.is_terminal and "width" not in settings:
            self.width, self.soft_wrap = _PIPE_WIDTH, True

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print texts as they are, and a table whole."""
        # texts are printed often and need no table
        if len(objects) == 1 and not isinstance(objects[0], str | Text):
            from rich.table import Table

            if isinstance(objects[0], Table) and objects[0].width is None:
                objects = (_whole(objects[0], self.table_width, self),)
        super().print(*objects, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string that is printed, and every one in a table, comes through here."""
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        silence()
        raise KeyboardInterrupt


def _whole(table: "Table", width: int, console: _Console) -> RenderableType:
    """The table as it is if it has `width` columns, else wrapped or as blocks, under its title.

    No cell is cut, no number, interval or name broken: cells are wrapped between words and figures;
    if that is not enough, or would tear a row into many lines, each row becomes a block of lines.
    """
    title, table.title = table.title, None
    style = table.title_style or ""
    above = [_wrapped(_text(title, console, str(style)), width)] if title else []
    cells = [[_text(cell, console) for cell in _cells(column, table)] for column in table.columns]
    natural = [max((_width(cell) for cell in column), default=0) for column in cells]
    options = console.options.update(width=1 << 16)
    frame = Measurement.get(console, options, table).maximum - sum(natural)
    widths = _fitted(cells, natural, width - frame)
    sized = zip(cells, widths, strict=True) if widths else []
    fitted = [[_wrapped(text, most) for text in column] for column, most in sized]
    lines = [text.plain.count("\n") for column in fitted for text in column]
    before = [text.plain.count("\n") for column in cells for text in column]
    torn = any(now - own > _MOST_BREAKS for now, own in zip(lines, before, strict=False))
    if not widths or torn:
        return Group(*above, *_blocks(cells, width))
    for column, texts in zip(table.columns, fitted, strict=True):
        column.no_wrap = True
        _put_back(column, texts, table)
    return Group(*above, table)


def _cells(column: "Column", table: "Table") -> list[RenderableType]:
    header = [column.header] if table.show_header else []
    return [*header, *column.cells, *([column.footer] if table.show_footer else [])]


def _fitted(cells: list[list[Text]], natural: list[int], room: int) -> list[int] | None:
    """Widths that fit into `room`, None if units or names would have to be broken."""
    # the first column holds names, which a reader or a program looks for in one piece
    least = natural[:1] + [max(map(_least, column), default=0) for column in cells[1:]]
    if sum(least) > room:
        return None
    widths = [min(most, max(room, low)) for most, low in zip(natural, least, strict=True)]
    lengths = [[_width(cell) for cell in column] for column in cells]
    while sum(widths) > room:
        # of the columns that can be narrower the one in which fewest cells have to be wrapped
        wide = [i for i, width in enumerate(widths) if width > least[i]]
        wrapped = {i: sum(length >= widths[i] for length in lengths[i]) for i in wide}
        widths[min(wide, key=lambda i: (wrapped[i], -widths[i]))] -= 1
    return widths


def _put_back(column: "Column", cells: list[Text], table: "Table") -> None:
    if table.show_header:
        column.header = cells.pop(0)
    if table.show_footer:
        column.footer = cells.pop()
    column._cells[:] = cells


def _blocks(cells: list[list[Text]], width: int) -> Iterable[Text]:
    """A block of lines a row: its first cell, then each other one behind the head of its column."""
    heads, *rows = zip(*cells, strict=True)
    indent = 2 + max((_width(head) for head in heads[1:]), default=0) + 2
    for first, *others in rows:
        yield _wrapped(first, width)
        for head, cell in zip(heads[1:], others, strict=True):
            if cell.plain.strip():
                value = _wrapped(Text(" ").join(cell.split("\n")), max(1, width - indent))
                lines = value.split("\n")
                start = Text("  ") + head + " " * (indent - 2 - _width(head))
                yield Text("\n" + " " * indent).join([start + lines[0], *lines[1:]])


def _text(cell: RenderableType, console: _Console, style: str = "") -> Text:
    text = cell.copy() if isinstance(cell, Text) else console.render_str(str(cell))
    if style:
        text.stylize(style)
    return text


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _least(text: Text) -> int:
    return max((cell_len(unit) for unit in _UNIT.findall(text.plain)), default=0)


def _wrapped(text: Text, width: int) -> Text:
    """The text with line ends between units, so that lines have `width` columns where they can."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        start = end = 0
        for unit in _UNIT.finditer(line.plain):
            if end > start and cell_len(line.plain[start : unit.end()]) > width:
                lines.append(line[start:end])
                start = unit.start()
            end = unit.end()
        lines.append(line[start:end])
    return Text("\n").join(lines)


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
