"""From a model's folder to its network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from bezoar.errors import DataError
from bezoar.io import cache_dir, cached_hash, read_object
from bezoar.model import attention, resolve
from bezoar.model.added_rows import place
from bezoar.model.architectures import ARCHITECTURES, refuse_unfit
from bezoar.model.examine import unlike
from bezoar.model.layer import install
from bezoar.model.linear import quantize
from bezoar.model.resolve import reason, refuse_misfits, some_of
from bezoar.model.spec import ModelSpec
from bezoar.model.tensors import open_tensors, refuse_not_finite
from bezoar.model.tokenizer import load_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_AGAIN = "fetch or save the model again."
# numbers that are computed from the config, such as the angles of positions
_MOST_BUFFERS = 2**27
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def load_net(spec: ModelSpec, *, device: str = "cpu", mapped: bool = False) -> Any:
    """The network (a transformers causal LM) with bezoar's attention and layers, dropout off.

    `mapped` leaves the weights in their files, see `read_net`, and the network on the CPU.
    """
    resolve.silence_libraries()
    folder = resolve.resolve_model(spec.path)
    net = read_net(folder, DTYPES[spec.dtype], mapped=mapped)
    if spec.quantize == "nf4":
        file = cache_dir() / "nf4" / f"{cached_hash(folder)}-{spec.dtype}.safetensors"
        quantize(net, device=device, file=file if device == "cpu" else None)
        # what is not packed leaves the mapped file, whose pages would all stay in memory for it
        for parameter in net.parameters():
            parameter.data = parameter.data.clone()
    # some configs ask for dropout, and adapters have their own
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    install(net)
    if spec.add_tokens:
        inner = load_tokenizer(spec.path, spec.add_tokens).inner
        # new rows are made of rows in the precision of the spec
        for embeddings in (net.get_input_embeddings(), net.get_output_embeddings()):
            embeddings.to(DTYPES[spec.dtype])
        place(net, inner.convert_tokens_to_ids(list(spec.add_tokens)))
    return (net if mapped else net.to(device)).eval()


def read_net(folder: Path, dtype: torch.dtype, *, mapped: bool = False) -> Any:
    """The network in a folder, with every weight from the folder's own files. DataError names what
    does not fit, before memory is taken: see `check_fit`.

    `mapped` leaves weights in the precision of the files, if they have one, and takes no memory for
    them: a row of a weight is read when it is used, and whoever uses it rounds it to `dtype` and
    refuses what is not finite.
    """
    kind, tensors, options = check_fit(folder, dtype)
    source = _source(folder)
    types = _types(tensors)
    kept = _FLOATS.get(types.pop()) if mapped and len(types) == 1 else None
    options["dtype"] = kept or dtype
    net, info = kind.from_pretrained(None, state_dict=tensors, **options)
    refuse_misfits(info, source)
    if mapped:
        _round_buffers(net, {**options, "dtype": dtype})
    else:
        refuse_not_finite(dict(net.named_parameters()), source)
    net.config.name_or_path = str(folder)
    if net.get_output_embeddings().weight is not net.get_input_embeddings().weight:
        # the files hold two matrices that differ, whatever the config says
        net.config.tie_word_embeddings = False
    _read_generation_config(net, folder / "generation_config.json")
    return net


def types_in(folder: Path) -> set[str]:
    """Types of the tensors in a folder: of several, a mapped network is in memory all the same."""
    return _types(_open_all(folder))


def _types(tensors: dict[str, Any]) -> set[str]:
    return {tensor.get_dtype() for tensor in tensors.values()}


def _round_buffers(net: Any, options: dict[str, Any]) -> None:
    """Give a network the buffers that it has in another precision, that of the options."""

    def no_memory(_: torch.nn.Module, __: str, weight: Any) -> Any:
        return None if weight is None else torch.nn.Parameter(weight.to("meta"))

    hook = register_module_parameter_registration_hook(no_memory)
    try:
        keys = "dtype", "attn_implementation"
        other = type(net)._from_config(net.config, **{key: options[key] for key in keys})
    finally:
        hook.remove()
    computed, stored = dict(other.named_buffers()), net.state_dict().keys()
    for name, buffer in net.named_buffers():
        own = computed[name]
        buffer.data = buffer.to(own.dtype) if name in stored else own


def check_fit(
    folder: Path, dtype: torch.dtype = torch.bfloat16
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The class of the network in a folder, its tensors, and how it is loaded with them.

    DataError for a config.json from which nothing can be built, or tensors that are lacking, left
    over, of another shape or no floating-point numbers.
    """
    # 1) open the files ourselves: transformers would follow names that they contain
    file, values, tensors = folder / "config.json", resolve.read_config(folder), _open_all(folder)
    for key in _NUM_LAYERS:
        # even an empty network of a million layers would take minutes
        if isinstance(values.get(key), int) and values[key] > len(tensors):
            fault = f"{key} is {values[key]}, and the files hold {len(tensors)} tensors"
            raise DataError(f"{file}: {fault}; {_AGAIN}")
    # 2) build it without memory, and compare names and shapes
    empty, source = empty_net(values, file, dtype), _source(folder)
    options = {**_options(values, dtype), "config": empty.config, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True}
    _refuse_early(empty, tensors, source)
    # 3) load it without memory: transformers renames tensors of old files on the way
    with _building(values, file):
        _, info = type(empty).from_pretrained(
            None, state_dict=dict(tensors), device_map={"": "meta"}, **options
        )
    refuse_misfits(info, source)
    return type(empty), tensors, options


def empty_net(values: dict[str, Any], file: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The network of a config.json without memory; DataError if nothing can be built from it."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = values["model_type"]
    if kind not in CONFIG_MAPPING:
        fault = f"the architecture {kind!r:.60} is not known to the installed transformers"
        raise DataError(f"{file}: {fault}; name another model.")
    refuse_unfit(values, file)
    with _building(values, file), torch.device("meta"):
        config = CONFIG_MAPPING[kind].from_dict(values)
        return AutoModelForCausalLM.from_config(config, **_options(values, dtype))  # type: ignore[no-untyped-call]


def _options(values: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    known = ARCHITECTURES.get(values["model_type"])
    own = known is None or known.takes_layout
    return {"dtype": dtype, "attn_implementation": attention.NAME if own else "eager"}


@contextmanager
def _building(values: dict[str, Any], file: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes one sentence that names the config."""
    try:
        yield
    # a config can be wrong in any way, and transformers' classes raise errors of any type
    except Exception as error:
        # an architecture with a table of attentions of its own
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise unlike(values["model_type"], f"no attention named {error}", file) from None
        fault = f"no language model can be built from it ({reason(error)})"
        raise DataError(f"{file}: {fault}; {_AGAIN}") from None


def _source(folder: Path) -> str:
    return f"{folder} ({some_of(path.name for path in resolve.weight_files(folder))})"


def _open_all(folder: Path) -> dict[str, Any]:
    """The tensors of all files as slices, by name."""
    tensors: dict[str, Any] = {}
    for file, listed in resolve.weight_files(folder).items():
        opened = open_tensors(file)
        if lacking := listed - opened.keys():
            raise DataError(f"{file}: it lacks {some_of(lacking)}, which the index lists; {_AGAIN}")
        if twice := opened.keys() & tensors.keys():
            raise DataError(f"{file}: {some_of(twice)} is in another file too; {_AGAIN}")
        tensors |= opened
    return tensors


def _refuse_early(empty: Any, tensors: dict[str, Any], source: str) -> None:
    """DataError if tensors differ in shape or type, or if buffers would fill the memory."""
    shapes, not_float = [], []
    for name, parameter in empty.named_parameters():
        if name in tensors:
            actual, expected = tensors[name].get_shape(), list(parameter.shape)
            if actual != expected:
                shapes.append((name, actual, expected))
            if tensors[name].get_dtype() not in _FLOATS:
                not_float.append(name)
    info: dict[str, Any] = {"mismatched_keys": shapes, "not_float": not_float}
    refuse_misfits({"missing_keys": set(), "unexpected_keys": set(), **info}, source)
    num = sum(buffer.numel() for buffer in empty.buffers())
    if num > _MOST_BUFFERS:
        fault = f"the config.json asks for {num} numbers beside the weights"
        raise DataError(f"{source}: {fault}, which no model has; mend it.")


def _read_generation_config(net: Any, file: Path) -> None:
    """The end tokens and other settings in generation_config.json. DataError if they are odd."""
    from transformers import GenerationConfig

    if not file.is_file():
        return
    values = read_object(file)
    ends = values.get("eos_token_id")
    try:
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if any(type(end) is not int for end in listed):
            raise ValueError(f"eos_token_id is {resolve.printable(repr(ends), 60)}")
        settings = GenerationConfig.from_dict(values)
        try:
            settings.validate(strict=True)
        # transformers reads settings without effect but refuses to write them: a model trained for
        # days could not be saved
        except ValueError:
            values = {key: value for key, value in values.items() if key not in _SAMPLING}
            settings = GenerationConfig.from_dict(values)
            settings.validate(strict=True)
        net.generation_config = settings
    except Exception as error:  # its class checks values with errors of several types
        fault = f"not settings of generation ({reason(error)})"
        raise DataError(f"{file}: {fault}; mend the file or remove it.") from None
