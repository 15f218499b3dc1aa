"""A model whose weights are pickled, or whose code came with it, as one that bezoar loads."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar import io
from bezoar.errors import DataError, RecipeError
from bezoar.model import hub
from bezoar.model.resolve import check_hub_id, read_config, weight_files
from bezoar.reading import user_path

_BESIDE = (".json", ".model", ".txt", ".jinja")
# what RefinedWeb's config has: under which name Falcon knows it
_RENAMED = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
_RENAMED |= {"n_head_kv": "num_kv_heads"}
_SHARED = re.compile(
    r"(vocab|hidden)_size|layer_norm_epsilon|initializer_range|bias|use_cache|multi_query|alibi"
    r"|parallel_attn|(hidden|attention)_dropout|(bos|eos|pad)_token_id|tie_word_embeddings"
    r"|(torch_)?dtype|transformers_version|pretraining_tp"
)
_NO_EFFECT = re.compile(r"model_type|architectures|auto_map|custom_pipelines|_name_or_path")


def convert(path: str, out: Path | None) -> str:
    """Write the model `path`, a folder or a name on the Hub, to `out` or to bezoar's cache; returns
    what was written.

    The new folder is checked before it takes its place: its tensors are those that were read, and
    they fit the config. RecipeError or DataError, and no folder, otherwise.
    """
    source = user_path(path)
    if is_folder := source.is_dir():
        if out is None:
            raise RecipeError(f"{path}: name the folder to write: bezoar convert {path} FOLDER.")
    else:
        check_hub_id(path)
    target = out or hub.converted_folder(path)
    if target.exists():
        raise RecipeError(f"{target}: it is there already; name another folder, or remove it.")
    source = source if is_folder else hub.fetch(path, pickled=True)
    values = read_config(source)
    config = falcon_config(values, source / "config.json")
    files = _weights(path, source, mapped=config["model_type"] != values["model_type"])
    with io.atomic_dir(target) as work:
        for file in sorted(source.iterdir()):
            # no code, and no index of the old files
            if file.suffix in _BESIDE and not file.name.endswith(".index.json"):
                shutil.copyfile(file, work / file.name)
        io.write_json(work / "config.json", config)
        num, size = _write_weights(files, work)
        from bezoar.model.load import check_fit

        check_fit(work)
    what = f"{num} tensors, {size / 1e9:.2f} GB; read back, they are the same and fit the config"
    use = "name it as the model's path" if out or is_folder else f"recipes that name {path} use it"
    return f"{target}: {what}; {use}"


def falcon_config(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A config of RefinedWeb as one of Falcon, which computes the same; others as they are.

    DataError for settings whose effect Falcon's code does not have.
    """
    if values["model_type"] not in hub.CUSTOM:
        return dict(values)
    beside = [key for key in values if not _NO_EFFECT.fullmatch(key)]
    known = [key for key in beside if key in _RENAMED or _SHARED.fullmatch(key)]
    # of a setting that Falcon lacks, only its being off is the same
    wrong = sorted(key for key in {*beside} - {*known} if values[key])
    new = values["model_type"] == "RefinedWeb"
    wrong += ["n_head_kv"] if new and not values.get("n_head_kv") else []
    wrong += ["n_head_kv"] if not new and values.get("n_head_kv") else []
    wrong += ["parallel_attn"] if new and values.get("parallel_attn") is False else []
    if wrong:
        fault = f"{', '.join(wrong)}: what this means in the model's own code, Falcon does not have"
        raise DataError(f"{file}: {fault}; take another model, or its version for transformers.")
    mapped = {_RENAMED.get(key, key): values[key] for key in known}
    mapped |= {"model_type": "falcon", "architectures": ["FalconForCausalLM"]}
    return {**mapped, "new_decoder_architecture": new}


def _weights(path: str, source: Path, *, mapped: bool) -> list[Path]:
    """The files of a model's weights; RecipeError if there is nothing to convert."""
    pickled = [source / name for name in hub.shards(source / hub.PICKLED_INDEX) or [hub.PICKLED]]
    if any(file.is_file() for file in pickled):
        for file in pickled:
            if not file.is_file() or file.parent != source:
                raise DataError(f"{file}: no such file, but {hub.PICKLED_INDEX} names it.")
        return pickled
    if not mapped:
        fault = f"there is no {hub.PICKLED} or {hub.PICKLED_INDEX} in it, so nothing to convert"
        raise RecipeError(f"model {path}: {fault}; name it in a recipe as it is.")
    return list(weight_files(source))


def _write_weights(files: list[Path], work: Path) -> tuple[int, int]:
    """Each file as safetensors; how many tensors and bytes there are."""
    from bezoar.model.tensors import checked_tensors
    from bezoar.model.unpickle import convert_files

    many = len(files) > 1
    names = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    targets = [work / name for name in (names if many else [hub.WHOLE])]
    pairs = list(zip(files, targets, strict=True))
    if files[0].suffix == ".safetensors":
        for file, target in pairs:
            shutil.copyfile(file, target)
    else:
        convert_files(pairs)
    table = {name: file.name for _, file in pairs for name, _ in checked_tensors(file)}
    size = sum(file.stat().st_size for _, file in pairs)
    if many:
        index = {"metadata": {"total_size": size}, "weight_map": table}
        io.write_json(work / hub.INDEX, index)
    return len(table), size
