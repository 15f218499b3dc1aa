"""A model whose weights are pickled, or whose code came with it, as one that bezoar loads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar import io
from bezoar.errors import DataError, RecipeError
from bezoar.model.hub import (
    CUSTOM,
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    WHOLE,
    converted_folder,
    fetch,
    shards,
)
from bezoar.model.resolve import check_hub_id, read_config, weight_files
from bezoar.reading import user_path

_BESIDE = (".json", ".model", ".txt", ".jinja")
# what RefinedWeb's config has: under which name Falcon knows it
_RENAMED = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_kv_heads",
}
_SHARED = {
    *("vocab_size", "hidden_size", "layer_norm_epsilon", "initializer_range", "bias", "use_cache"),
    *("multi_query", "parallel_attn", "alibi", "hidden_dropout", "attention_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    *("torch_dtype", "dtype", "transformers_version", "pretraining_tp"),
}
_NO_EFFECT = {"model_type", "architectures", "auto_map", "custom_pipelines", "_name_or_path"}


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
    target = out or converted_folder(path)
    if target.exists():
        raise RecipeError(f"{target}: it is there already; name another folder, or remove it.")
    source = source if is_folder else fetch(path, pickled=True)
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
    if values["model_type"] not in CUSTOM:
        return dict(values)
    unknown = sorted(values.keys() - _SHARED - _RENAMED.keys() - _NO_EFFECT)
    # of a setting that Falcon lacks, only its being off is the same
    wrong = [key for key in unknown if values[key]]
    new = values["model_type"] == "RefinedWeb"
    wrong += ["n_head_kv"] if new and not values.get("n_head_kv") else []
    wrong += ["n_head_kv"] if not new and values.get("n_head_kv") else []
    wrong += ["parallel_attn"] if new and values.get("parallel_attn") is False else []
    if wrong:
        fault = f"{', '.join(wrong)}: what this means in the model's own code, Falcon does not have"
        raise DataError(f"{file}: {fault}; take another model, or its version for transformers.")
    mapped = {_RENAMED.get(key, key): values[key] for key in values if key not in _NO_EFFECT}
    mapped = {key: value for key, value in mapped.items() if key not in unknown}
    mapped |= {"model_type": "falcon", "architectures": ["FalconForCausalLM"]}
    return {**mapped, "new_decoder_architecture": new}


def _weights(path: str, source: Path, *, mapped: bool) -> list[Path]:
    """The files of a model's weights; RecipeError if there is nothing to convert."""
    pickled = [source / name for name in shards(source / PICKLED_INDEX) or [PICKLED]]
    if any(file.is_file() for file in pickled):
        for file in pickled:
            if not file.is_file() or file.parent != source:
                raise DataError(f"{file}: no such file, but {PICKLED_INDEX} names it.")
        return pickled
    if not mapped:
        fault = f"there is no {PICKLED} or {PICKLED_INDEX} in it, so nothing to convert"
        raise RecipeError(f"model {path}: {fault}; name it in a recipe as it is.")
    return list(weight_files(source))


def _write_weights(files: list[Path], work: Path) -> tuple[int, int]:
    """Each file as safetensors; how many tensors and bytes there are."""
    from bezoar.model.tensors import check_tensors
    from bezoar.model.unpickle import convert_files

    many = len(files) > 1
    names = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    pairs = [
        (file, work / (name if many else WHOLE)) for file, name in zip(files, names, strict=True)
    ]
    if files[0].suffix == ".safetensors":
        for file, target in pairs:
            shutil.copyfile(file, target)
    else:
        convert_files(pairs)
    table = {name: file.name for _, file in pairs for name in check_tensors(file)}
    size = sum(file.stat().st_size for _, file in pairs)
    if many:
        index = {"metadata": {"total_size": size}, "weight_map": table}
        io.write_json(work / INDEX, index)
    return len(table), size
