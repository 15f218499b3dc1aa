"""A two-layer random model with a byte tokenizer, saved as an ordinary folder."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.byte_level import byte_level

QUESTIONS = [
    {
        "query": "Question: What do bees make?\nAnswer:",
        "choices": ["honey", "glass and steel", "paper"],
        "gold": 0,
    },
    {"query": "Question: Which is a metal?\nAnswer:", "choices": ["oak", "iron"], "gold": 1},
    {
        "query": "Question: Which is a metal?\nAnswer:",
        "choices": ["copper", "a cloud", "wool", "milk"],
        "gold": 0,
    },
    {"query": "The sun rises in the ", "choices": ["east", "west"], "gold": 0},
    {"query": "Ünïcödé, 数学? ", "choices": ["zwölf", "数"], "gold": 1},
]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model: vocabulary 261, hidden 32, context 160, float32 weights large enough
    to differ."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    inner = byte_level([("Ġ", "t"), ("h", "e"), ("i", "n"), ("Ġ", "a"), ("e", "r")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stack(model_dir: Path) -> Any:
    """The model as a stack in float32."""
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    return Stack(ModelSpec(str(model_dir), dtype="float32"), [], device="cpu")
