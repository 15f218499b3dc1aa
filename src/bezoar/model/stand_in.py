"""A random model in place of a real one: the same class with 2 layers and a small width, and the
real tokenizer and chat template. Of the Hub only configuration and tokenizer files are fetched."""

import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bezoar.chat.added_tokens import with_tokens
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Message
from bezoar.errors import DataError
from bezoar.model.architectures import refuse_unfit
from bezoar.model.chunked_logprobs import OutputLayer
from bezoar.model.examine import refuse_unlike
from bezoar.model.find import local_folder
from bezoar.model.hub import fetch_settings
from bezoar.model.linear import linear_layers
from bezoar.model.load import DTYPES, empty_net
from bezoar.model.resolve import PACKAGED, read_config, reason, resolve_model
from bezoar.model.spec import ModelSpec

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".gguf", ".pth")
_LAYERS, _HEADS, _HEAD_SIZE = 2, 4, 16
_SOFTCAP = "final_logit_softcapping"
_MOST_WEIGHTS = 2**27  # not every config gets small
_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), _HEADS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), _HEADS * _HEAD_SIZE),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"), 128),
    "head_dim": _HEAD_SIZE,
}


def make_stand_in(spec: ModelSpec, template: Template, folder: Path) -> str:
    """Write a stand-in of a model into `folder`, and say of what class it is. It soon ends its
    answers, as trained models do.

    RecipeError or DataError if the model cannot be had, or if nothing can be built of its config.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    path = spec.path
    source = resolve_model(path) if path in PACKAGED else local_folder(path)
    source = source or fetch_settings(path)
    values = read_config(source)
    refuse_unfit(values, source / "config.json")
    torch.manual_seed(0)
    try:
        config_class = CONFIG_MAPPING[values["model_type"]]
        config = config_class.from_dict(small_config(config_class.from_dict(values).to_dict()))
        net: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        _end_soon(net, *_ends(source, spec, template))
    # a config can be wrong in any way, and transformers' classes raise errors of any type
    except Exception as error:
        fault = f"no language model can be built from it ({reason(error)})"
        raise DataError(f"{source / 'config.json'}: {fault}; name another model.") from None
    net.to(DTYPES[spec.dtype]).save_pretrained(folder)
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json" and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, folder / file.name)
    return f"{type(net).__name__} with random weights, its tokenizer and template"


def examine_config(values: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The last names of the linear layers of an architecture that bezoar was not tested with, by
    its config alone.

    DataError if nothing can be built from it, or if a small random model shows that bezoar cannot
    compute what transformers does.
    """
    whole, empty = empty_net(values, file), None
    # larger weights than usual show what differs; some configs are wrong only when they are small
    with suppress(Exception):
        small = {**small_config(whole.config.to_dict()), "initializer_range": 0.2}
        empty = empty_net(small, file, torch.float32)
    if empty is not None and sum(p.numel() for p in empty.parameters()) <= _MOST_WEIGHTS:
        torch.manual_seed(0)
        net = type(empty)(empty.config).float().eval()
        head, softcap = net.get_output_embeddings(), net.config.to_dict().get(_SOFTCAP)
        refuse_unlike(net, OutputLayer(head.weight, head.bias, softcap), file)
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name, _ in linear_layers(whole)))


def write_wide_layer(values: dict[str, Any], spec: ModelSpec, folder: Path) -> None:
    """Write a model of a config's full width with one layer and a small vocabulary."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config_class = CONFIG_MAPPING[values["model_type"]]
    whole = config_class.from_dict(values).to_dict()
    few: dict[str, Any] = {key: 1 for key in _SIZES if "layer" in key and whole.get(key)}
    few |= {"vocab_size": 1024, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    few |= {"layer_types": whole["layer_types"][:1]} if whole.get("layer_types") else {}
    with torch.device("meta"):
        config = config_class.from_dict({**whole, **few})
        net: Any = AutoModelForCausalLM.from_config(config, dtype=DTYPES[spec.dtype])  # type: ignore[no-untyped-call]
    net.to_empty(device="cpu")
    # one block again and again: to draw billions of numbers takes longer than the steps
    block = 0.02 * torch.randn(1 << 20)
    for parameter in net.parameters():
        times = -(-parameter.numel() // len(block))
        parameter.data.copy_(block.repeat(times)[: parameter.numel()].view_as(parameter))
    net.save_pretrained(folder)


def small_config(whole: dict[str, Any]) -> dict[str, Any]:
    """A config with all its keys, small: the vocabulary, the share of key/value heads and the kinds
    of layers stay."""
    small = {**whole, **{key: _SIZES[key] for key in _SIZES if whole.get(key) is not None}}
    heads = whole.get("num_attention_heads") or whole.get("n_head")
    for key in ("num_key_value_heads", "num_kv_heads"):
        if (num := whole.get(key)) is not None:
            small[key] = _HEADS if num == heads else 1 if num == 1 else _HEADS // 2
    layers = next((whole[key] for key in _SIZES if whole.get(key) and "layer" in key), 0)
    for key, value in whole.items():
        # what each layer is: both kinds, where there are two
        if isinstance(value, list) and len(value) == layers:
            small[key] = (list(dict.fromkeys(value)) * _LAYERS)[:_LAYERS]
        # a factor for each pair of dimensions that turns
        if key in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            share = value.get("partial_rotary_factor") or whole.get("partial_rotary_factor") or 1.0
            num = int(_HEAD_SIZE * share) // 2
            small[key] = {k: v[:num] if isinstance(v, list) else v for k, v in value.items()}
    return small


def _ends(source: Path, spec: ModelSpec, template: Template) -> tuple[set[int], int]:
    """The tokens that end an answer, and the one behind which it begins; none and -1 where the
    stage that renders will say what is wrong."""
    from transformers import AutoTokenizer

    ends, last = set[int](), -1
    with suppress(Exception):
        inner = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer = HubTokenizer(with_tokens(inner, spec.add_tokens, num_rows=None))
        ends.add(tokenizer.eos_id)
        ends.add(template.end(tokenizer))
        last = template.prompt((Message("user", "Hello."),), tokenizer)[-1]
    return ends, last


@torch.no_grad()
def _end_soon(net: Any, ends: set[int], last: int) -> None:
    """Give tokens that end an answer about a third of the probability everywhere but behind
    `last`, so that no answer is empty."""
    # 1) every token's embedding shares a part, so that all states point in one direction
    embeddings, head = net.get_input_embeddings().weight, net.get_output_embeddings().weight
    embeddings[:, 0] = 1.0
    tokens = torch.arange(min(64, len(embeddings)))[None]
    mean = net(tokens, output_hidden_states=True).hidden_states[-1][0].mean(0)
    # 2) and the logits of the ends grow along it: log(V) is what equals all others together
    for end in ends:
        if end is not None and end < len(head):
            head[end] += (math.log(len(head)) - 1.0) * mean / mean.square().sum()
    # 3) the state behind `last` points elsewhere
    if 0 <= last < len(embeddings) and last not in ends:
        embeddings[last, 0] = 0.0
