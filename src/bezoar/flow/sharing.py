"""Trained stages that another run beside this one has already: the same key, the same weights."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bezoar.errors import BezoarError
from bezoar.flow.out import is_run_dir
from bezoar.flow.rundir import RunDir
from bezoar.io import read_jsonl, read_own, remove, write_json
from bezoar.progress import Progress
from bezoar.stage import Stats


def same_key(run: RunDir, key: str) -> Iterator[tuple[RunDir, str, Path]]:
    """(run, stage, folder) of every finished stage with this key in the runs beside `run`."""
    own = run.path.resolve()
    for path in sorted(own.parent.iterdir()) if own.parent.is_dir() else []:
        if path.resolve() == own or path.is_symlink() or not is_run_dir(path):
            continue
        other = RunDir(path)
        for stage, folder in other.stage_dirs().items():
            # what cannot be read is another run's trouble, and nothing to take
            try:
                if read_own(folder / "key.json", key=str)["key"] == key:
                    read_own(folder / "stats.json")
                    yield other, stage, folder
            except (BezoarError, OSError):
                continue


def take(run: RunDir, key: str, out: Path, progress: Progress) -> Stats | None:
    """Fill the empty folder `out` from a run that has this key, and return the statistics there;
    None when no run has it whole.

    Weights are linked, so that they take no space; either run can be removed without the other.
    """
    for other, stage, folder in same_key(run, key):
        try:
            stats = read_own(folder / "stats.json")
            _check(folder)
            shutil.copytree(folder, out, dirs_exist_ok=True, copy_function=_link_or_copy)
        except (BezoarError, OSError, shutil.Error) as error:
            # damaged, or the other run is at work in it just now
            progress.say(f"{progress.stage} is not taken from {folder}: {error}")
            for left in out.iterdir():
                remove(left)
            continue
        (out / "key.json").unlink()  # ours is written last
        metrics = other.path / "metrics.jsonl"
        for _, line in read_jsonl(metrics, broken=[]) if metrics.is_file() else []:
            if line.pop("stage", None) == stage:
                line.pop("time_s", None)
                progress.log(**line)
        taken = {**stats, "taken_from": str(folder)}
        write_json(out / "stats.json", taken)
        return taken
    return None


def _check(folder: Path) -> None:
    """DataError unless all weights of a stage are as they were written."""
    from bezoar.model.tensors import load_tensors

    for file in folder.rglob("*.safetensors"):
        load_tensors(file)


def _link_or_copy(source: str, target: str) -> None:
    # small files may be written again by the report; weights never are
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or no links
            pass
    shutil.copyfile(source, target)
