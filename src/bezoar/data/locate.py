"""What a source's `path` names: files, seeds of the package, or a Hub dataset or its mirror."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bezoar import strict_json
from bezoar.data.hub import RowGroup, read_hub, row_groups
from bezoar.data.licences import row_licence
from bezoar.data.rows import Placed, read_file, suffix
from bezoar.errors import DataError, brief
from bezoar.reading import LIMITS, Limits, check_file, user_path

# (Hub id, subset, split) -> path below the folder that BEZOAR_DATA names. Where the mirror holds
# only a part of a split, the ids of its rows still say which file was read.
MIRROR: dict[tuple[str, str, str], str] = {
    ("databricks/databricks-dolly-15k", "", "train"): "dolly/databricks-dolly-15k.jsonl",
    ("Anthropic/hh-rlhf", "harmless-base", "test"): "hh-rlhf/harmless-base/test.jsonl.gz",
    ("Anthropic/hh-rlhf", "helpful-base", "train"): "hh-rlhf/helpful-single-turn/train_gt.jsonl",
    ("Anthropic/hh-rlhf", "helpful-base", "test"): "hh-rlhf/helpful-single-turn/test.jsonl",
    ("kowndinya23/flan2022", "", "all"): "flan",
    ("kowndinya23/flan2022", "", "cot"): "flan/cot_data_sample",
    ("kowndinya23/flan2022", "", "niv2"): "flan/super_ni_tasks",
    ("kowndinya23/flan2022", "", "t0"): "flan/t0_p3_sample_10_per_template.jsonl",
    ("HuggingFaceH4/ultrafeedback_binarized", "", "train_prefs"): "ultrafeedback/train_clean.jsonl",
    ("HuggingFaceH4/ultrafeedback_binarized", "", "test_prefs"): "ultrafeedback/eval_clean.jsonl",
    ("llamafactory/glaive_toolcall_en", "", "train"): "tool_calls/glaive_toolcall_en_demo.json",
    ("HuggingFaceH4/mt_bench_prompts", "", "train"): "mt_bench/question.jsonl",
    ("allenai/ai2_arc", "ARC-Easy", "test"): "eval/arc_easy.jsonl",
    ("allenai/ai2_arc", "ARC-Challenge", "test"): "eval/arc_challenge.jsonl",
    ("baber/piqa", "", "validation"): "eval/piqa.jsonl",
    ("ybisk/piqa", "", "validation"): "eval/piqa.jsonl",
    ("allenai/openbookqa", "main", "test"): "eval/openbook_qa.jsonl",
    ("allenai/winogrande", "winogrande_xl", "validation"): "eval/winogrande.jsonl",
    ("google/boolq", "", "validation"): "eval/boolq.jsonl",
    ("openai/gsm8k", "main", "test"): "eval/gsm8k.jsonl",
    ("google/IFEval", "", "train"): "eval/ifeval.jsonl",
    ("truthfulqa/truthful_qa", "multiple_choice", "validation"): "eval/truthfulqa_mc.json",
}

# where a split called train, which is read where no other is named, does not exist
_NO_TRAIN = {"kowndinya23/flan2022": "all"}
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_SEEDS = "bezoar:"
_MOST_NAMES = 100_000


class DataFile(NamedTuple):
    """A file, or with `path` None a split of a Hub dataset (several joined by `+`, or `all`);
    `label` begins the ids of its rows."""

    label: str
    licence: str
    path: Path | None
    dataset: str = ""
    split: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def rows(self, limits: Limits = LIMITS) -> Iterator[Placed]:
        """The rows in order, read as they are asked for; `limits` are those of a file."""
        if self.path is not None:
            return read_file(self.path, self.label, limits)
        return read_hub(self.dataset, self.label, self.split, dict(self.options))

    def row_groups(self, column: str) -> list[RowGroup] | None:
        """The row groups of Parquet on the Hub; None for a file and for other forms."""
        if self.path is not None:
            return None
        return row_groups(self.dataset, self.split, dict(self.options), column)


def is_hub_id(path: str) -> bool:
    """`owner/name` without the suffix of a data file; a local folder is written `./owner/name`."""
    return bool(_HUB_ID.match(path)) and not suffix(Path(path))


def locate(
    path: str | Path, folder: Path, *, subset: str = "", split: str = "", subset_is: str = "name"
) -> list[DataFile]:
    """The files that `path` names, a relative one against `folder`, or the Hub split; a `Path`
    is always a file or folder.

    A Hub id is read from the mirror that BEZOAR_DATA names, if that knows the dataset. DataError
    when nothing is there.
    """
    if isinstance(path, Path):
        return _files(folder / path, "/".join(path.parts[-2:]), "")
    if is_hub_id(path):
        return _hub_split(path, subset, split or _NO_TRAIN.get(path, "train"), subset_is)
    if path.startswith(_SEEDS):
        seeds = Path(__file__).parents[1] / "seeds"
        return _files(seeds / path.removeprefix(_SEEDS), path, row_licence(_SEEDS))
    local = folder / user_path(path)
    return _files(local, "/".join(local.parts[-2:]) if Path(path).is_absolute() else path, "")


def _hub_split(dataset: str, subset: str, split: str, subset_is: str) -> list[DataFile]:
    licence, mirror = row_licence(dataset), os.environ.get("BEZOAR_DATA", "")
    # a mirror may lack whole datasets, which then come from the Hub; but of a dataset that it has,
    # it has to hold the part that is asked for
    mirrored = {key: file for key, file in MIRROR.items() if key[0] == dataset}
    if not mirror or not mirrored:
        label = "/".join(part for part in (dataset, subset, split) if part)
        options = ((subset_is, subset),) if subset else ()
        return [DataFile(label, licence, None, dataset, split, options)]
    keys = [(dataset, subset, part) for part in split.split("+")]
    if not mirrored.keys() >= set(keys):
        known = ", ".join(f"{s + ' ' if s else ''}{t}" for _, s, t in mirrored)
        what = f"the mirror in BEZOAR_DATA holds only {known}; choose one or unset BEZOAR_DATA"
        raise DataError(f"{dataset}: {what}.")
    paths = [mirrored[key] for key in keys]
    return [file for path in paths for file in _files(Path(mirror) / path, path, licence)]


def _files(path: Path, label: str, licence: str) -> list[DataFile]:
    if not os.path.isdir(path):
        # a link to nowhere does exist; check_file says what is wrong with it
        if not os.path.lexists(path):
            hint = "a Hub dataset is written owner/name" if "/" not in label else "check the path"
            raise DataError(f"{brief(str(path))}: no such file or folder; {hint}.")
        check_file(path)
        return [DataFile(label, licence, path)]
    files = _data_files(path)
    if not files:
        what = "the folder holds no data files (.jsonl, .json, .csv, .tsv or .parquet)"
        raise DataError(f"{path}: {what}; check the path.")
    prefix = label.rstrip("/")
    labels = [f"{prefix}/{file.relative_to(path).as_posix()}" for file in files]
    return [DataFile(name, licence, file) for name, file in zip(labels, files, strict=True)]


def _data_files(folder: Path) -> list[Path]:
    """The data files at any depth, in order. DataError for too many names, as below `/`."""
    files: list[Path] = []
    num_names = 0
    for parent, _, names in os.walk(folder):
        num_names += len(names) + 1
        if num_names > _MOST_NAMES:
            what = f"the folder holds more than {_MOST_NAMES:,} files and folders"
            raise DataError(f"{folder}: {what}; name one below it.")
        paths = [Path(parent, name) for name in names]
        files += [path for path in paths if suffix(path) and path.is_file()]
    for file in files:
        if not strict_json.is_text(str(file)):
            raise DataError(f"{str(file)!a}: the file's name is not UTF-8; rename it.")
    # the order of os.walk differs between file systems
    return sorted(files)
