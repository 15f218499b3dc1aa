"""Two ranks take their parts of a model from its files, over gloo: the weights of a plain load, in
less memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bezoar.model.load import _open_all
from bezoar.model.tensors import load_tensors, save_tensors
from tests.helpers.tiny_nets import make, make_kind
from tests.train.test_rank_gradients import free_port

# tests/train/test_rank_gradients.py holds the gradient of weights in parts without the marker
pytestmark = pytest.mark.real
SAME = {"llama": "bfloat16", "gemma3": "bfloat16", "gpt-neox": "float32", "falcon-40b": "bfloat16"}
"""Tied and untied, with a buffer that the precision rounds, with biases; in files of float32."""


@pytest.fixture(scope="module")
def found(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import torch

    folder = tmp_path_factory.mktemp("parts")
    same: dict[str, Any] = {}
    for name, dtype in SAME.items():
        same[name] = {"path": str(make(name, folder / name, tiny_model)), "dtype": dtype}
    # experts, which transformers joins as it reads them, and an architecture without fast layers
    sizes = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    for kind, more in (("qwen3_moe", sizes), ("starcoder2", {})):
        same[kind] = {"path": str(make_kind(kind, folder / kind, tiny_model, **more))}
    tied = same["llama"]["path"]
    same["two matrices of a tied config"] = {"path": str(untied(Path(tied), folder / "untied"))}
    same["two tokens more"] = {"path": tied, "add_tokens": ["<one>", "<two>"]}
    half = llama(folder / "half", tiny_model, torch.bfloat16, small=True)
    same["bfloat16 in its file"] = {"path": str(half)}
    same["bfloat16 in float32"] = {"path": str(half), "dtype": "float32"}
    large = llama(folder / "large", tiny_model, torch.bfloat16)
    broken = str(not_finite(Path(tied), folder / "broken"))
    lora = {name: same[name] for name in ("gemma3", "gpt-neox", "bfloat16 in float32")}
    # rows of an output embedding of its own, which are read behind the pass
    lora["two tokens more"] = same["two tokens more"] | same["two matrices of a tied config"]
    job = {"same": same, "lora": lora, "large": {"path": str(large)}, "broken": broken}
    (folder / "job.json").write_text(json.dumps(job))
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "tests.helpers.rank_parts", str(folder / "job.json")]
    # memory that is freed goes back, so that what is measured is held
    common = {**os.environ, **meet, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    ranks = [
        subprocess.Popen([*command, str(folder)], env={**common, "RANK": rank}) for rank in "01"
    ]
    assert [rank.wait(180) for rank in ranks] == [0, 0]
    reports = [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(2)]
    return {"reports": reports, "folder": folder, "large": large}


def untied(source: Path, folder: Path) -> Path:
    """A copy with an output embedding of its own, which its config does not know of."""
    shutil.copytree(source, folder)
    tensors = load_tensors(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_tensors(folder / "model.safetensors", tensors)
    return folder


def not_finite(source: Path, folder: Path) -> Path:
    """A copy with one number of a second half's that is none."""
    shutil.copytree(source, folder)
    tensors = load_tensors(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = float("nan")
    save_tensors(folder / "model.safetensors", tensors)
    return folder


def llama(folder: Path, tokenizer: Path, dtype: Any, *, small: bool = False) -> Path:
    """A random one of 31 million weights, in files of some 20 MB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = (32, 48, 2) if small else (512, 1536, 8)
    config = LlamaConfig(
        vocab_size=272 if small else 4099,
        hidden_size=sizes[0],
        intermediate_size=sizes[1],
        num_hidden_layers=sizes[2],
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    net = LlamaForCausalLM(config).to(dtype)
    net.save_pretrained(folder, max_shard_size="20MB")
    for file in tokenizer.iterdir():
        if file.name.startswith("tokenizer"):
            shutil.copyfile(file, folder / file.name)
    return folder


def test_the_weights_are_those_of_a_plain_load(found: dict[str, Any]) -> None:
    for report in found["reports"]:
        assert len(report["differing"]) == 10
        assert not any(report["differing"].values()), report["differing"]


def test_a_rank_takes_its_part_and_one_tensor(found: dict[str, Any]) -> None:
    """126 MB in float32; 63 of them lie on a rank."""
    for report in found["reports"]:
        assert report["held"] == pytest.approx(63e6, rel=0.02)
        assert report["loading"] < report["held"] + 2 * report["largest"] + 10e6
        assert report["saving"] < 4 * report["largest"]
        # the gradient is in parts too
        assert report["step"] < report["held"] + 8 * report["largest"]


def test_an_adapter_reads_and_trains_on_parts_as_on_the_whole(found: dict[str, Any]) -> None:
    for report in found["reports"]:
        assert len(report["unlike"]) == 4
        assert not any(report["unlike"].values()), report["unlike"]


def test_a_rank_of_an_adapter_takes_its_part_of_the_base(found: dict[str, Any]) -> None:
    """63 MB in bfloat16, of which half lie on a rank."""
    for report in found["reports"]:
        # and its adapter
        assert report["base held"] == pytest.approx(31.5e6 + 1.3e6, rel=0.02)
        assert report["base loading"] < report["base held"] + 2 * report["largest"]
        # and not the 63 MB of all that is whole at some time: the embeddings and two blocks
        assert report["base step"] < 40e6


def test_the_rank_of_a_number_that_is_none_refuses_it(found: dict[str, Any]) -> None:
    first, second = (report["broken"] for report in found["reports"])
    assert not first
    assert "broken: model.layers.1.mlp.up_proj.weight is not finite" in second


def test_a_weight_that_is_not_as_declared_is_not_written(tmp_path: Path) -> None:
    import torch

    declared = {"x": torch.empty(2, 3, device="meta")}
    for odd in (torch.zeros(2, 3).double(), torch.zeros(6), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"x is torch.* not as declared"):
            save_tensors(tmp_path / "f", declared, read={"x": odd}.__getitem__)
    assert not list(tmp_path.iterdir())


def test_what_is_written_from_parts_is_the_model(found: dict[str, Any]) -> None:
    before, after = _open_all(found["large"]), _open_all(found["folder"] / "model")
    assert before.keys() == after.keys()
    assert all((before[name][...] == after[name][...]).all() for name in before)
    assert not list(found["folder"].glob("*.safetensors"))
