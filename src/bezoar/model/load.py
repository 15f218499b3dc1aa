"""From a model's name to its tokenizer and its network."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch

import bezoar.model.attention as attention
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError
from bezoar.io import cache_dir, cached_hash, read_object
from bezoar.model.folder import named, printable, read_config, reason, weight_files
from bezoar.model.layer import install
from bezoar.model.linear import quantize
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import ModelSpec
from bezoar.model.tensors import open_tensors, refuse_not_finite

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_MOST_BESIDE = 2**27
"""Numbers that are computed from the config, as the angles of positions are."""
_PLAIN = ("F64", "F32", "F16", "BF16")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_NUM_WORDS = 1000
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)


def load_tokenizer(path: str) -> HubTokenizer:
    """The tokenizer in a model's folder. DataError, with the file that is at fault, where it cannot
    be used."""
    from transformers import AutoTokenizer

    silence_libraries()
    folder = resolve_model(path)
    read_config(folder)
    try:
        inner = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        special = set(inner.all_special_ids)
        # a vocabulary of words may lack any of ours
        known = inner.decode(sorted(set(inner.get_vocab().values()) - special)[:_NUM_WORDS])
        ids = inner.encode(
            f"Hello, world. {known}", add_special_tokens=False, split_special_tokens=True
        )
        inner.decode(ids, skip_special_tokens=True)
    # the tokenizers library panics with an error type that is no Exception
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        there = [file for file in _TOKENIZER_FILES if (folder / file).is_file()]
        for file in there:
            read_object(folder / file)
        told = (
            f"the tokenizer in it ({', '.join(there)}) cannot be used ({reason(error)})"
            if "tokenizer.json" in there
            else "no tokenizer.json in it"
        )
        raise DataError(f"{folder}: {told}; save the model's tokenizer into the folder.") from None
    if not set(ids) - special:
        raise DataError(
            f"{folder / 'tokenizer.json'}: the tokenizer has no vocabulary; save it into the"
            " folder."
        )
    if inner.eos_token_id is None:
        raise DataError(
            f"model {path}: the tokenizer names no end token; set eos_token in its"
            " tokenizer_config.json."
        )
    if not isinstance(inner.chat_template, (str, dict, type(None))):
        raise DataError(
            f"{folder / 'tokenizer_config.json'}: chat_template is {inner.chat_template!r:.60}, not"
            " text; mend the file."
        )
    return HubTokenizer(inner)


def load_net(spec: ModelSpec, *, device: str = "cpu") -> Any:
    """The network (transformers causal LM) with attention "bezoar", dropout off, its linear layers
    in 4 bits if `spec` says so."""
    silence_libraries()
    folder = resolve_model(spec.path)
    net = read_net(folder, DTYPES[spec.dtype])
    if spec.quantize == "nf4":
        file = cache_dir() / "nf4" / f"{cached_hash(folder)}-{spec.dtype}.safetensors"
        quantize(net, device=device, file=file if device == "cpu" else None)
    install(net)
    return net.to(device).eval()


def read_net(folder: Path, dtype: torch.dtype) -> Any:
    """The network in a folder, every weight of it from the folder's files, which are chosen and
    opened here.

    DataError names what does not fit: a config.json from which nothing can be built, tensors that
    are lacking, left over, of another shape or no floating-point numbers. It comes before memory is
    taken: the whole is gone through on torch's meta device first.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    file, values, tensors = folder / "config.json", read_config(folder), _open_all(folder)
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"):
        if isinstance(values.get(key), int) and values[key] > len(tensors):
            raise DataError(
                f"{file}: {key} is {values[key]}, and the files hold {len(tensors)} tensors; fetch"
                " or save the model again."
            )
    if values["model_type"] not in CONFIG_MAPPING:
        raise DataError(
            f"{file}: the architecture {values['model_type']!r:.60} is not known to the installed"
            " transformers; name another model."
        )
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention.NAME}
    place = f"{folder} ({named(path.name for path in weight_files(folder))})"
    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[values["model_type"]].from_dict(values), **options
            )  # type: ignore[no-untyped-call]
        _refuse_early(empty, tensors, place)
        options |= {
            "config": empty.config,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
        }
        _, found = type(empty).from_pretrained(
            None, state_dict=dict(tensors), device_map={"": "meta"}, **options
        )
    except DataError:
        raise
    # a config can be wrong in any way, and its classes say so with errors of any type
    except Exception as error:
        raise DataError(
            f"{file}: no language model can be built from it ({reason(error)}); fetch or save the"
            " model again."
        ) from None
    refuse_misfits(found, place)
    net, found = type(empty).from_pretrained(None, state_dict=tensors, **options)
    refuse_misfits(found, place)
    refuse_not_finite(dict(net.named_parameters()), place)
    net.config.name_or_path = str(folder)
    if net.get_output_embeddings().weight is not net.get_input_embeddings().weight:
        # the files hold two matrices that differ, whatever the config says
        net.config.tie_word_embeddings = False
    _read_generation(net, folder)
    return net


def _open_all(folder: Path) -> dict[str, Any]:
    """The tensors of all files as slices, by name."""
    tensors: dict[str, Any] = {}
    for file, listed in weight_files(folder).items():
        found = open_tensors(file)
        if lacking := listed - found.keys():
            raise DataError(
                f"{file}: the index says that it holds {named(lacking)}, and it does not; fetch or"
                " save the model again."
            )
        if twice := found.keys() & tensors.keys():
            raise DataError(
                f"{file}: {named(twice)} stands in another file of the model too; fetch or save the"
                " model again."
            )
        tensors |= found
    return tensors


def _refuse_early(empty: Any, tensors: dict[str, Any], place: str) -> None:
    """DataError where weights on the meta device have the names of others, or where what is
    computed beside them would fill the memory."""
    both = [
        (name, tensors[name], list(expected.shape))
        for name, expected in empty.named_parameters()
        if name in tensors
    ]
    shapes = [
        (name, there.get_shape(), expected)
        for name, there, expected in both
        if there.get_shape() != expected
    ]
    odd = [name for name, there, _ in both if there.get_dtype() not in _PLAIN]
    refuse_misfits(
        {"mismatched_keys": shapes, "missing_keys": set(), "unexpected_keys": set(), "odd": odd},
        place,
    )
    beside = sum(buffer.numel() for buffer in empty.buffers())
    if beside > _MOST_BESIDE:
        raise DataError(
            f"{place}: the config.json asks for {beside} numbers beside the weights, which no model"
            " has; mend it."
        )


def refuse_misfits(found: dict[str, Any], place: str) -> None:
    """DataError where transformers would have drawn weights at random, or left some of a file
    unused; `found` is what it found in loading."""
    shapes = {
        name: f"{name} {list(there)} instead of {list(expected)}"
        for name, there, expected in found["mismatched_keys"]
    }
    faults = {
        "lack": found["missing_keys"] - shapes.keys(),
        "have too much": found["unexpected_keys"],
        "have in another shape": shapes.values(),
        "have not as floating-point numbers": found.get("odd"),
    }
    told = [f"{fault} {named(names)}" for fault, names in faults.items() if names]
    if told:
        raise DataError(
            f"{place}: the weights do not fit the config: they {'; they '.join(told)}; fetch or"
            " save the model again."
        )


def _read_generation(net: Any, folder: Path) -> None:
    """The end tokens and other settings in generation_config.json, where there is one. DataError
    names the file when they are odd."""
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return
    values = read_object(file)
    ends = values.get("eos_token_id")
    try:
        if any(
            type(end) is not int
            for end in (ends if isinstance(ends, list) else [] if ends is None else [ends])
        ):
            raise ValueError(f"eos_token_id is {printable(repr(ends), 60)}")
        settings = GenerationConfig.from_dict(values)
        try:
            settings.validate(strict=True)
        # transformers reads settings without effect and does not write them: a model trained for
        # days could not be saved
        except ValueError:
            settings = GenerationConfig.from_dict(
                {key: value for key, value in values.items() if key not in _SAMPLING}
            )
            settings.validate(strict=True)
        net.generation_config = settings
    except Exception as error:  # its class checks values with errors of several types
        raise DataError(
            f"{file}: not settings of generation ({reason(error)}); mend the file or remove it."
        ) from None


def silence_libraries() -> None:
    """Keep the libraries' own bars and notes off the console, and large tensors in large pages (a
    tenth of a step's time)."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
