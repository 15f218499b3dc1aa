"""Files of our own, read back: what a hand or a torn disk changed in them is one sentence that
names file and place, and is made anew where it can be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bezoar.errors import DataError
from bezoar.io import Row, content_hash, read_json, read_object, set_aside, write_json

FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What code meets where a value that it wrote has another type or is gone."""
ADVICE = "put back a copy of it, or remove it and run again"


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Work on what lies in `folder`, deeper than `read_own` checks it. DataError when a value is
    not what was written there."""
    try:
        yield
    except FAULTS as error:
        fault = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{folder}: a value in it is not as bezoar wrote it ({fault}); put back a copy, or run"
            " again what made it."
        ) from error


def read_own(path: Path, **kinds: Any) -> Row:
    """The JSON object in `path`, of which the values under the names of `kinds` have these types;
    an absent one reads as None.

    DataError names the file and what is wrong in it.
    """
    from pydantic import TypeAdapter, ValidationError

    row = read_object(path)
    for name, kind in kinds.items():
        try:
            row[name] = TypeAdapter(kind).validate_python(row.get(name))
        except ValidationError as error:
            fault = error.errors()[0]
            at = ".".join([name, *map(str, fault["loc"])])
            raise DataError(
                f"{path}: not as bezoar wrote it ({at}: {fault['msg']}); {ADVICE}."
            ) from None
    return row


def keep(path: Path, value: Row) -> None:
    """Write what can be made anew, with a sum by which damage is known; durable on return."""
    plain = json.loads(json.dumps(value))
    write_json(path, {**plain, "sum": content_hash(plain)})


def checked(path: Path) -> Row:
    """What `keep` wrote. DataError when it is absent or damaged."""
    found = read_json(path)
    row = found if isinstance(found, dict) else {}
    if row.pop("sum", None) != content_hash(row):
        raise DataError(f"{path}: its content is not what was written; {ADVICE}.")
    return row


def kept(path: Path) -> Row | None:
    """What `keep` wrote; None where there is none, or where it is damaged and was set aside."""
    if not path.exists():
        return None
    try:
        return checked(path)
    except DataError as error:
        set_aside(path, error)
        return None
