"""Files of our own, read back: what a hand or a torn disk changed in them is one sentence that names file and place."""

from pathlib import Path
from typing import Any

from bezoar.errors import DataError
from bezoar.io import Row, read_object

ADVICE = "put back a copy of it, or remove it and run again"


def read_own(path: Path, **kinds: Any) -> Row:
    """The JSON object in `path`, of which the values under the names of `kinds` have these types; an absent one reads as None.

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
            raise DataError(f"{path}: not as bezoar wrote it ({at}: {fault['msg']}); {ADVICE}.") from None
    return row
