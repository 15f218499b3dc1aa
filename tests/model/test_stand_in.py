"""Stand-ins of models: the class and its kinds of layers stay, and answers end soon."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from bezoar.chat.templates import OpenBezoarTemplate  # noqa: E402
from bezoar.errors import DataError  # noqa: E402
from bezoar.model.spec import ModelSpec  # noqa: E402
from bezoar.model.stack import Stack  # noqa: E402
from bezoar.model.stand_in import make_stand_in, small_config  # noqa: E402
from tests.helpers.hub_models import byte_level, config, sizes  # noqa: E402

LAYERS = ["sliding_attention"] * 5 + ["full_attention"]
LONG = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
CASES: dict[str, dict[str, Any]] = {
    "llama": sizes(3072, 28, 24, 8, 8192),
    "qwen3": {**sizes(1024, 28, 16, 8, 3072), "head_dim": 128},
    "gemma3_text": {
        **sizes(1152, 26, 4, 1, 6912),
        "head_dim": 256,
        "layer_types": LAYERS * 4 + LAYERS[:2],
    },
    "falcon": {
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "multi_query": True,
    },
    "gpt_neox": {k: v for k, v in sizes(2560, 32, 32, 32, 10240).items() if "key" not in k},
    "phi3": {
        **sizes(3072, 32, 32, 32, 8192),
        "rope_scaling": LONG,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 0,
    },
    "olmo2": sizes(2048, 16, 16, 16, 8192),
}


def saved(folder: Path, kind: str) -> Path:
    """A folder with config and tokenizer, and weights that no test may read."""
    folder.mkdir()
    end = "<|endoftext|>"
    values = {**CASES[kind], "bos_token_id": 256, "eos_token_id": 256}
    files = {**byte_level((end,), bos=end, eos=end), "config.json": config(kind, values)}
    for name, data in {**files, "model.safetensors": b"no weights"}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", CASES)
def test_a_stand_in_is_small_and_of_the_same_class(kind: str, tmp_path: Path) -> None:
    source, folder = saved(tmp_path / "real", kind), tmp_path / "toy"
    told = make_stand_in(ModelSpec(str(source)), OpenBezoarTemplate(), folder)
    assert told.endswith("ForCausalLM with random weights, its tokenizer and template")
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    stack = Stack(ModelSpec(str(folder), dtype="float32"), device="cpu")
    assert stack.net.config.num_hidden_layers == 2
    assert sum(p.numel() for p in stack.net.parameters()) < 300_000
    assert stack.tokenizer.inner.eos_token == "<|endoftext|>"


@pytest.mark.parametrize("kind", ["llama", "qwen3", "falcon", "gpt_neox"])
def test_a_stand_in_soon_ends_its_answers(kind: str, tmp_path: Path) -> None:
    make_stand_in(
        ModelSpec(str(saved(tmp_path / "real", kind))), OpenBezoarTemplate(), tmp_path / "toy"
    )
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "toy", dtype=torch.float32)
    with torch.no_grad():
        chances = net(torch.arange(97, 122)[None]).logits[0].softmax(-1)[:, 256]
    assert 0.1 < float(chances.mean()) < 0.6


def test_the_kinds_of_layers_and_heads_stay() -> None:
    whole = {**CASES["gemma3_text"], "num_hidden_layers": 26}
    small = small_config(whole)
    assert small["layer_types"] == ["sliding_attention", "full_attention"]
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (4, 1)
    assert small_config(CASES["llama"])["num_key_value_heads"] == 2
    assert small_config(CASES["olmo2"])["num_key_value_heads"] == 4
    assert len(small_config(CASES["phi3"])["rope_scaling"]["long_factor"]) == 8


def test_a_config_of_which_nothing_can_be_built_is_named(tmp_path: Path) -> None:
    source = saved(tmp_path / "real", "llama")
    (source / "config.json").write_bytes(config("no_such_class", CASES["llama"]))
    with pytest.raises(DataError, match=r"config\.json: .*no_such_class.*name another model"):
        make_stand_in(ModelSpec(str(source)), OpenBezoarTemplate(), tmp_path / "toy")
