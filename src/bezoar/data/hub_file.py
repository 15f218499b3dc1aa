"""A split of a Hub dataset as a file: `hub:owner/name/[subset/]split`, from the mirror or fetched
once into the cache."""

from pathlib import Path

from bezoar.data.choices import read_choices
from bezoar.data.locate import DataFile, is_hub_id, locate
from bezoar.errors import DataError, brief, first_line
from bezoar.io import cache_dir, write_jsonl

PREFIX = "hub:"


def mirrored(ref: str) -> Path | None:
    """The file in the mirror that BEZOAR_DATA names, if the dataset is read from there."""
    return _place(ref).path


def hub_file(ref: str) -> Path:
    """The rows of a split as JSON Lines; questions with labelled choices get the columns query,
    choices, gold."""
    place = _place(ref)
    if place.path is not None:
        return place.path
    path = cache_dir() / "hub" / (ref.removeprefix(PREFIX).replace("/", "--") + ".jsonl")
    if not path.exists():
        rows = [row for _, row in place.rows()]
        if rows and "answerKey" in rows[0]:
            choices = read_choices(
                place.dataset, subset=dict(place.options).get("name", ""), split=place.split
            )
            rows = [{"query": c.query, "choices": list(c.choices), "gold": c.gold} for c in choices]
        try:
            write_jsonl(path, rows)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(
                f"{ref}: a row holds what JSON cannot ({first_line(error)}); take another split or"
                " a file."
            ) from None
    return path


def _place(ref: str) -> DataFile:
    parts = ref.removeprefix(PREFIX).split("/")
    fits = (
        len(parts) in (3, 4)
        and all(parts)
        and is_hub_id("/".join(parts[:2]))
        and len(ref) <= 200
        and ref.isprintable()
    )
    if not fits:
        raise DataError(
            f"{brief(ref)}: a file of the Hub is written hub:owner/name/split or"
            " hub:owner/name/subset/split; change it."
        )
    return locate(
        "/".join(parts[:2]), Path(), subset=parts[2] if len(parts) == 4 else "", split=parts[-1]
    )[0]
