"""From a model's name to its tokenizer and its network."""

import logging
import os
import warnings
from typing import Any

import torch

import bezoar.model.attention as attention
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError, RecipeError
from bezoar.io import cache_dir, cached_hash
from bezoar.model.find import resolve
from bezoar.model.layer import install
from bezoar.model.linear import quantize
from bezoar.model.spec import ModelSpec

__all__ = ["DTYPES", "load_net", "load_tokenizer", "quiet", "resolve"]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_tokenizer(path: str) -> HubTokenizer:
    """The tokenizer in a model's folder."""
    from transformers import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(resolve(path))
    except (ValueError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise RecipeError(f"model {path}: its tokenizer cannot be loaded ({reason}); save the tokenizer into the folder.") from None
    if inner.eos_token_id is None:
        raise DataError(f"model {path}: the tokenizer names no end token; set eos_token in its tokenizer_config.json.")
    return HubTokenizer(inner)


def load_net(spec: ModelSpec, *, device: str = "cpu") -> Any:
    """The network (transformers causal LM) with attention "bezoar", dropout off, its linear layers in 4 bits if `spec` says so."""
    from transformers import AutoModelForCausalLM

    quiet()
    net = AutoModelForCausalLM.from_pretrained(
        resolve(spec.path), dtype=DTYPES[spec.dtype], attn_implementation=attention.NAME, use_safetensors=True
    )
    if spec.quantize == "nf4":
        file = cache_dir() / "nf4" / f"{cached_hash(resolve(spec.path))}-{spec.dtype}.safetensors"
        quantize(net, device=device, file=file if device == "cpu" else None)
    install(net)
    return net.to(device).eval()  # type: ignore[arg-type]


def quiet() -> None:
    """Keep the libraries' own bars and notes off the console, and large tensors in large pages (a tenth of a step's time)."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
