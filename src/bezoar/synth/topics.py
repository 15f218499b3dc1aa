"""Topics of the LaMini scheme: a list, or the paper's rule on a table of Wikipedia's categories."""

from pathlib import Path

from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, column, read_file, suffix, text
from bezoar.io import Row
from bezoar.prompts import read_list

MOST_WORDS, OVER_SUBCATEGORIES, OVER_PAGES = 2, 10, 50
_TITLE = ("cat_title", "title", "category")
_SUBCATEGORIES = ("cat_subcats", "subcategories")
_PAGES = ("cat_pages", "pages")


def read_topics(ref: str) -> list[str]:
    """The topics of a text file, one a line, or of a table of categories.

    Of a table (cat_title, cat_subcats, cat_pages, as Wikipedia's own dump names them) the paper's:
    fewer than 3 words, more than 10 sub-categories and more than 50 pages (arXiv 2304.14402).
    """
    path = locate_file(ref, Path(), "topics")
    if not suffix(path):
        return read_list(ref)
    found: dict[str, None] = {}
    for at, row in read_file(path, path.name):
        # a dump writes titles as addresses have them
        title = " ".join(text(row, _name(row, _TITLE, at), at).replace("_", " ").split())
        counts = [_count(row, _name(row, names, at), at) for names in (_SUBCATEGORIES, _PAGES)]
        enough = counts[0] > OVER_SUBCATEGORIES and counts[1] > OVER_PAGES
        if title and len(title.split()) <= MOST_WORDS and enough:
            found[title] = None
    return list(found)


def _name(row: Row, names: tuple[str, ...], at: RowOrigin) -> str:
    """The first of `names` that is a column."""
    return next((name for name in names if name in row), names[0])


def _count(row: Row, name: str, at: RowOrigin) -> int:
    value = column(row, name, at)
    # CSV has texts alone
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise at.wrong(f"the column {name!r} is {str(value)[:40]!r}, not a number; mend it.")
    return int(value)
