"""Many rows prepared in processes, from files: the same as proved here and now."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Filtered, Message
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.model.tokenizer import load_tokenizer
from bezoar.progress import Progress
from bezoar.train.label_check import Example, check_labels
from bezoar.train.objectives import DPO, SFT
from bezoar.train.tokenized_cache import Prepared, identity, num_cut, num_input_tokens, start_method
from bezoar.train.tokenized_cache import prepare as prepare_chunks
from tests.helpers.rows import chats, pairs

CHUNK = 16


def prepare(rows: Any, check_labels: Any, key: str = "k") -> Any:
    return prepare_chunks(rows, check_labels, key=key, progress=Progress(), chunk=CHUNK)


def check(objective: Any, **settings: Any) -> Any:
    return partial(
        check_labels,
        objective=objective,
        template=ChatML(),
        tokenizer=ByteTokenizer(),
        **{"max_length": 150, "too_long": "drop", **settings},
    )


def made(objective: Any) -> list[Any]:
    """Two chunks and a bit, with a row here and there that is left out or too long."""
    rows: list[Any] = (pairs if isinstance(objective, DPO) else chats)(2 * CHUNK + 3)
    if not isinstance(objective, DPO):
        rows[CHUNK + 1] = replace(
            rows[0], messages=(Message("user", "a"), Message("assistant", " "))
        )
    return rows


@pytest.mark.parametrize("objective", [SFT(), DPO()])
@pytest.mark.parametrize("too_long", ["drop", "cut"])
def test_the_same_as_plain_proof(objective: Any, too_long: str, cache_folder: Path) -> None:
    rows, plain = made(objective), check(objective, too_long=too_long)
    items, dropped = prepare(rows, plain, "k" + too_long)
    expected = plain(rows)
    assert isinstance(items, Prepared)
    assert list(items) == expected.rows
    assert dropped == expected.dropped
    assert dropped or any(item.cut for item in items)
    assert num_input_tokens(items) == num_input_tokens(expected.rows)
    assert num_cut(items) == num_cut(expected.rows)
    assert items[5:7] == expected.rows[5:7]
    assert items[-1] == expected.rows[-1]
    with pytest.raises(IndexError):
        items[len(items)]
    again, _ = prepare(rows, plain, "k" + too_long)
    assert identity(again) == identity(items)


@dataclass(frozen=True)
class Nobody:
    """Proves nothing: a chunk that it is asked for was not in the cache."""

    def __call__(self, rows: Any) -> Any:
        raise DataError("asked")


def test_a_chunk_is_made_once(cache_folder: Path) -> None:
    rows, plain = made(SFT()), check(SFT())
    items, _ = prepare(rows, plain)
    again, _ = prepare(rows, Nobody())
    assert list(again) == list(items)
    with pytest.raises(DataError, match="asked"):
        prepare(rows, Nobody(), "other")
    rows[3] = replace(rows[3], id="new")
    with pytest.raises(DataError, match="asked"):
        prepare(rows, Nobody())
    assert len(list(cache_folder.glob("prepared/*/*.arrow"))) == 3


@pytest.mark.parametrize("how", ["cut", "empty", "one bit"])
def test_a_damaged_chunk_is_set_aside_and_made_anew(
    cache_folder: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, plain = made(SFT()), check(SFT())
    prepare(rows, plain)
    file = sorted(cache_folder.glob("prepared/*/*.arrow"))[1]
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:-100],
            "empty": b"",
            "one bit": whole[:99] + bytes([whole[99] ^ 1]) + whole[100:],
        }[how]
    )
    again, _ = prepare(rows, plain)
    assert list(again) == plain(rows).rows
    assert file.read_bytes() == whole
    assert f"it was set aside as {file}.damaged and is made anew." in capfd.readouterr().err


def test_a_row_that_is_refused_is_named(cache_folder: Path) -> None:
    rows = made(SFT())
    for at in (7, CHUNK + 9):
        rows[at] = replace(rows[at], id=f"bad {at}", messages=(Message("user", "a"),))
    with pytest.raises(DataError, match="row bad 7: no token of it would be trained"):
        prepare(rows, check(SFT()))


def test_few_rows_stay_in_memory(cache_folder: Path) -> None:
    rows = chats(CHUNK)
    items, dropped = prepare(rows, check(SFT()))
    assert list(items) == check(SFT())(rows).rows
    assert dropped == check(SFT())(rows).dropped
    assert isinstance(items, list)
    assert identity(items) != identity(items[1:])
    assert not list(cache_folder.iterdir())


def with_facts(rows: Any) -> Any:
    groups = [
        PromptGroup(
            [1, 2],
            [Completion([70_000, n], [True, False]), Completion([3], [True])],
            (float(n), 0.5),
        )
        for n in range(len(rows))
    ]
    return Filtered([Example(row.id, group) for row, group in zip(rows, groups, strict=True)])


def test_large_tokens_several_branches_and_facts_come_back(cache_folder: Path) -> None:
    rows = chats(CHUNK + 2)
    items, _ = prepare(rows, with_facts)
    assert list(items) == [*with_facts(rows[:CHUNK]).rows, *with_facts(rows[CHUNK:]).rows]


def test_files_that_nobody_used_for_long_are_removed(cache_folder: Path) -> None:
    old = cache_folder / "prepared" / "x" / "y.arrow"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    prepare(made(SFT()), check(SFT()))
    assert not old.exists()


def from_where(rows: Any, *, tokenizer: Any) -> Filtered[Example]:
    """Examples named after whether their process has what was set in its parent, as tokens."""
    inherited = getattr(check, "inherited", False)
    groups = [PromptGroup(tokenizer.encode(row.id), []) for row in rows]
    names = [f"{row.id} {inherited}" for row in rows]
    return Filtered([Example(*pair, cut=False) for pair in zip(names, groups, strict=True)], [])


def test_no_process_is_forked_once_cuda_runs(
    tiny_model: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked process fails at its first use of CUDA, and may hang before."""
    rows, tokenizer = chats(CHUNK + 1), load_tokenizer(str(tiny_model))
    monkeypatch.setattr(check, "inherited", True, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one process is enough
    check_rows = partial(from_where, tokenizer=tokenizer)
    assert start_method() == "fork"
    items, _ = prepare(rows, check_rows, "before")
    assert [item.id for item in items] == [f"{row.id} True" for row in rows]
    # as it is where a model lies on a GPU
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    again, _ = prepare(rows, check_rows, "after")
    assert [item.id for item in again] == [f"{row.id} False" for row in rows]
    assert [item.group for item in again] == [item.group for item in items]
