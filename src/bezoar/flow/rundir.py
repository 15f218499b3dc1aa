"""A run directory: where each stage's output lies, and that one process at a time writes it."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bezoar.chat.types import AnyRow, row_to_item
from bezoar.errors import DataError, RecipeError
from bezoar.flow.cache_key import ADAPTER_HOLDS, WHOLE_STACK, Parts
from bezoar.flow.out import check_folder, check_place, is_run_dir
from bezoar.flow.recipe import Recipe, category_of, trained
from bezoar.io import (
    Row,
    as_written,
    atomic_write,
    publish,
    read_own,
    remove,
    sync_entries,
    write_json,
)
from bezoar.model.spec import ModelSpec
from bezoar.parquet import num_rows, read_parquet
from bezoar.references import CHECKPOINT, stage_folders


@dataclass(frozen=True)
class StoredRows:
    """Rows of a Parquet file, read a part at a time whenever they are gone through."""

    path: Path

    def __len__(self) -> int:
        with self._whole():
            return num_rows(self.path)

    def __iter__(self) -> Iterator[AnyRow]:
        rows = read_parquet(self.path)
        # an iterator that stopped within `with` would put the caller's errors down to this file,
        # so each row is read inside and given out outside of it
        while True:
            with self._whole(), as_written(self.path):
                row = next(rows, None)
                item = row_to_item(row) if row is not None else None
            if item is None:
                return
            yield item

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """DataError that says what to do about a file of our own."""
        try:
            yield
        except DataError as error:
            fault = str(error).rpartition("; ")[0].removeprefix(f"{self.path}: ")
            advice = f"remove {self.path.parent} and run the recipe again"
            raise DataError(f"{self.path}: {fault}; {advice}.") from error


@dataclass(frozen=True)
class RunDir:
    """`runs/<name>/`: one folder a stage, `<nn>-<stage>/`, complete when its key.json is there."""

    path: Path

    def stage_dirs(self) -> dict[str, Path]:
        """The folders of all finished outputs by stage, in the order of their numbers."""
        folders: dict[str, Path] = {}
        for stage, path in stage_folders(self.path):
            # key.json is written last, so a folder without it is no output, whatever it holds
            if (path / "key.json").is_file():
                folders.setdefault(stage, path)
        return folders

    def stage_dir(self, name: str) -> Path | None:
        """The folder of a stage's finished output, whatever its number; None when there is none."""
        return self.stage_dirs().get(name)

    def output_dir(self, name: str) -> Path:
        """The same; RecipeError when there is none."""
        folder = self.stage_dir(name)
        if folder is None:
            what = f"the stage {name} has no output yet"
            raise RecipeError(f"{self.path}: {what}; run the recipe first.")
        return folder

    def unfinished(self, name: str) -> Row:
        """stats.json of a stage that ended and was not done, or an empty table."""
        path = self.left_dir(name) / "stats.json"
        if not path.is_file():
            return {}
        counts = {"calls": dict[str, float] | None, "dropped": dict[str, int] | None}
        stats = read_own(path, unfinished=str | None, **counts)
        return stats if stats["unfinished"] else {}

    def left_dir(self, name: str) -> Path:
        """Where a stage that is not done has written what there is, such as failures.jsonl."""
        folders = self.path.glob(f".partial-*-{name}")
        own = (folder for folder in folders if folder.name.split("-", 2)[2] == name)
        return next(own, self.path / f".partial-{name}")

    def stored(self, name: str) -> Row:
        """key.json of a stage, or an empty table."""
        folder = self.stage_dir(name)
        if folder is None:
            return {}
        names = dict[str, str] | None
        work = {"kind": str | None, "category": str | None, "inputs": names, "parts": names}
        row = read_own(folder / "key.json", key=str, finished=str, **work)
        return {**row, "parts": row["parts"] or {}}

    def stale(self, keys: Mapping[str, str]) -> set[str]:
        """The stages whose output is not there under these keys."""
        return {name for name, key in keys.items() if self.stored(name).get("key") != key}

    def is_earlier(self, name: str) -> bool:
        """Whether a stage's output is of earlier settings than those of the last run."""
        # the recipe of a run by an older version has no keys: what it left counts as its output
        key = (self.resolved().get("keys") or {}).get(name)
        return key is not None and self.stored(name).get("key", key) != key

    def resolved(self) -> Row:
        """The recipe of the last run as it was understood, or an empty table."""
        path, table = self.path / "resolved.json", dict[str, Row]
        if not path.is_file():
            return {}
        more = {"models": table | None, "backends": table | None, "repeats": table | None}
        return read_own(path, name=str, stages=table, keys=dict[str, str] | None, **more)

    def items(self, name: str) -> list[AnyRow]:
        """The rows of a finished stage."""
        return list(self.stored_rows(name))

    def stored_rows(self, name: str) -> StoredRows:
        """The rows of a finished stage, which stay in their file."""
        folder = self.output_dir(name)
        if not (folder / "rows.parquet").exists():
            raise RecipeError(f"{folder}: the stage {name} gives no rows; name one that does.")
        return StoredRows(folder / "rows.parquet")

    def work_dir(self, name: str, key: str) -> Path:
        """Where an unfinished stage keeps what lets it go on after a kill; older leftovers of the
        stage are removed."""
        for left in self.path.glob(f".work-{name}-*"):
            if left.name != f".work-{name}-{key}" or left.is_symlink():
                remove(left)
        folder = self.path / f".work-{name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def output(self, name: str, number: int, record: dict[str, Any]) -> Iterator[Path]:
        """Yield a folder for a stage's output; it takes its place with key.json, written last, or
        not at all.

        What the key vouches for reaches the disk before the key, and the key before the folder has
        its name.
        """
        partial = self.path / f".partial-{number:02d}-{name}"
        remove(partial)
        partial.mkdir(parents=True)
        # 1) The stage writes. When it fails the folder stays, for its failures.jsonl, but has no
        # key, so the next run removes it.
        yield partial
        # 2) The output reaches the disk, 3) then the key, which says that it did.
        publish(partial)
        write_json(
            partial / "key.json",
            {**record, "finished": datetime.now(UTC).isoformat(timespec="seconds")},
        )
        # 4) Only now does the folder get a name that others read; `recover` does it after a kill.
        self._place(partial)

    def _place(self, partial: Path) -> None:
        """Put a finished output in place of the old one, whatever its number was."""
        final = self.path / partial.name.removeprefix(".partial-")
        name = final.name.partition("-")[2]
        # 1) Old outputs go aside: that of this number, and that of this stage where its number was
        # another. A kill here loses nothing: the new output is complete, and `recover` places it.
        for old in (final, self.stage_dir(name)):
            if old is not None and (old.is_symlink() or old.exists()):
                aside = self.path / f".old-{old.name}"
                remove(aside)
                old.rename(aside)  # at once: a key never stands beside half of a folder
        # 2) The new name reaches the disk, 3) and only then may the old output be removed, else a
        # power cut could leave neither.
        partial.rename(final)
        sync_entries(self.path)
        for left in (*self.path.glob(".old-*"), *self.path.glob(f".work-{name}-*")):
            remove(left)

    def recover(self) -> None:
        """Place the outputs that were complete, and remove those that were not, when an earlier
        process died."""
        # what went aside has its successor in place or in .partial-*, complete
        for left in self.path.glob(".old-*"):
            remove(left)
        for partial in self.path.glob(".partial-*"):
            if (partial / "key.json").exists() and not partial.is_symlink():
                self._place(partial)
            else:
                remove(partial)

    def model(self, recipe: Recipe, name: str) -> tuple[ModelSpec, list[Path]]:
        """The base and the adapters, lowest first, of a model or a training stage's result."""
        if name in recipe.models:
            return recipe.models[name], []
        spec, adapters = self.model(recipe, trained(recipe, name).model)
        name, _, checkpoint = name.partition(CHECKPOINT)
        folder = self.output_dir(name)
        if checkpoint:
            folder = folder / "checkpoints" / checkpoint
        # a stage that trains all weights gives a whole model, and the stack starts anew from it
        if (folder / "model").is_dir():
            return ModelSpec(str(folder / "model"), spec.quantize, spec.dtype), []
        whole = self.stored(name)["parts"].get(ADAPTER_HOLDS) == WHOLE_STACK
        return spec, [*([] if whole else adapters), folder / "adapter"]

    @property
    def journal(self) -> Path | None:
        """The journal that holds its replies, where there is one."""
        places = (self.path / "journal.sqlite", self.path.parent / "journal.sqlite")
        # the file itself, not a link to it: claims lie beside it
        return next((path.resolve() for path in places if path.is_file()), None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory; RecipeError when another process holds it."""
        self.path.mkdir(parents=True, exist_ok=True)
        # a lock of the kernel, so a killed process leaves none behind
        lock = self.path / ".lock"
        if lock.is_symlink():
            raise RecipeError(f"{lock}: a link, which bezoar never makes; remove it.")
        with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "another bezoar process is working in this run directory"
                raise RecipeError(f"{self.path}: {what}; wait for it or stop it.") from None
            yield

    def check_owner(self, recipe: Recipe) -> None:
        """RecipeError if the folder is another recipe's, no run directory, or lies in one."""
        check_place(self.path)
        if not self.path.is_dir():
            check_folder(self.path)
            return
        if is_run_dir(self.path):
            owner = self.resolved()["name"]
            if owner != recipe.name:
                what = f"this run directory belongs to the recipe {owner!r}, not {recipe.name!r}"
                raise RecipeError(f"{self.path}: {what}; name another with --out.")
        # a run that was killed as it began leaves its lock and part of a file
        elif any(not p.name.startswith((".lock", ".resolved.json")) for p in self.path.iterdir()):
            what = "the folder is not empty and is no run directory"
            raise RecipeError(f"{self.path}: {what}; name another with --out.")

    def adopt(self, recipe: Recipe, keys: Mapping[str, str]) -> None:
        """Write down the recipe and its stages' keys, without which an output is of earlier
        settings."""
        resolved = {
            "name": recipe.name,
            "recipe": str(recipe.path.resolve()),
            "seed": recipe.seed,
            "repeats": {name: repeat._asdict() for name, repeat in recipe.repeated.items()},
            "budget_usd": recipe.budget_usd,
            "template": asdict(recipe.template),
            "stages": {n: asdict(s) for n, s in recipe.written.items()},
            "keys": dict(keys),
            "backends": {n: asdict(b) for n, b in recipe.backends.items()},
            "models": {n: asdict(m) for n, m in recipe.models.items()},
        }
        # its time says since when it holds; tuples are lists there
        if self.resolved() != json.loads(json.dumps(resolved)):
            write_json(self.path / "resolved.json", resolved)
        # behind the file that makes the folder ours: a run can be killed between the two
        atomic_write(self.path / "recipe.yaml", recipe.path.read_bytes())


def key_record(key: str, parts: Parts, *, recipe: Recipe, name: str) -> dict[str, Any]:
    """The content of key.json."""
    return {
        "key": key,
        "stage": name,
        "kind": recipe.stages[name].kind,
        "category": category_of(recipe.stages[name].kind),
        "inputs": {ref.path: ref.name for ref in recipe.inputs(name) if ref.kind != "file"},
        "parts": parts,
    }
