"""Pickled and custom models made loadable, in a process without a network; and what is refused."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.errors import BezoarError, DataError, RecipeError
from bezoar.model.convert import convert, falcon_config
from bezoar.model.load import read_net
from bezoar.model.resolve import resolve_model
from bezoar.model.tensors import checked_tensors, save_tensors
from bezoar.model.unpickle import convert_files, read_pickled
from tests.helpers.tiny_nets import make

FORTY = {
    "model_type": "RefinedWeb",
    "architectures": ["RWForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modelling_RW.RWForCausalLM"},
    "custom_pipelines": {"text-generation": {"impl": "h2oai_pipeline.H2OTextGenerationPipeline"}},
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "n_head": 4,
    "n_head_kv": 2,
    "n_layer": 2,
    "parallel_attn": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 272,
}
"""The keys of the first Falcon-40B's config, at toy size."""


def pickled(source: Path, folder: Path, *, num_files: int = 1) -> Path:
    """The weights of a model as .bin files, with an index if there are several."""
    from safetensors.torch import load_file

    folder.mkdir()
    for file in source.glob("*"):
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(source / "model.safetensors")
    names = sorted(state)
    if num_files == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    table = {}
    for number in range(num_files):
        file = f"pytorch_model-{number + 1:05d}-of-{num_files:05d}.bin"
        part = {name: state[name] for name in names[number::num_files]}
        table |= dict.fromkeys(part, file)
        torch.save(part, folder / file)
    index = {"metadata": {}, "weight_map": table}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_pickled_weights_become_the_same_safetensors(tiny_model: Path, tmp_path: Path) -> None:
    source = pickled(tiny_model, tmp_path / "old", num_files=3)
    (source / "modelling.py").write_text("raise SystemExit")
    told = convert(str(source), tmp_path / "new")
    assert "they are the same and fit the config" in told
    assert not list((tmp_path / "new").glob("*.py")) + list((tmp_path / "new").glob("*.bin*"))
    old, new = (read_net(p, torch.float32).state_dict() for p in (tiny_model, tmp_path / "new"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_what_a_recipe_says_of_pickled_weights(tiny_model: Path, tmp_path: Path) -> None:
    source = pickled(tiny_model, tmp_path / "old")
    with pytest.raises(RecipeError, match=r"pickled .*`bezoar convert .*old FOLDER`"):
        resolve_model(str(source))


class Evil:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return Path.touch, (self.made,)


def overlapping() -> Any:
    return {"x": torch.zeros(1).expand(10**12)}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"epoch": 3, "x": torch.ones(2)}, "epoch is int, not a plain tensor"),
        ({"model": {"x": torch.ones(2)}}, "model is dict, not a plain tensor"),
        ([torch.ones(2)], "it holds list, not tensors by name"),
        ({"x": torch.zeros(1).expand(10**12)}, "x has more numbers than the file"),
        ({"x": torch.eye(3).to_sparse()}, "x is Tensor, not a plain tensor"),
    ],
)
def test_files_that_hold_more_than_weights(content: Any, why: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=why):
        read_pickled(tmp_path / "x.bin")


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    good, evil, made = (tmp_path / name for name in ("good.bin", "evil.bin", "made"))
    torch.save({"x": torch.ones(2)}, good)
    torch.save({"x": Evil(made)}, evil)
    pairs = [(file, file.with_suffix(".safetensors")) for file in (good, evil)]
    with pytest.raises(DataError, match=r"evil\.bin: .*alone \(it asks for \w+, no tensor"):
        convert_files(pairs)
    assert not made.exists()
    assert not (tmp_path / "evil.safetensors").exists()


def test_the_process_that_reads_them_has_no_network() -> None:
    code = (
        "import ctypes, socket\nfrom bezoar.model.unpickle import keep_from_network\n"
        "socket.socket().close()\nkeep_from_network()\n"
        # past Python's own module too: the call itself is refused, here and in children
        "print(ctypes.CDLL(None).socket(2, 1, 0))\n"
        "import subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'])"
        ".returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("-1\n", 1)
    assert "PermissionError" in done.stderr
    socket.socket().close()


def test_weights_that_do_not_fit_leave_no_folder(tiny_model: Path, tmp_path: Path) -> None:
    source = pickled(tiny_model, tmp_path / "old")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    state.pop("model.norm.weight")
    torch.save(state, source / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"lack model\.norm\.weight"):
        convert(str(source), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_numbers_that_are_none(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"x": torch.tensor([1.0, float("nan")])})
    with pytest.raises(DataError, match="x is not finite"):
        list(checked_tensors(tmp_path / "x"))


@pytest.mark.parametrize(
    ("config", "variant"),
    [
        (FORTY, "falcon-40b"),
        (
            {**FORTY, "model_type": "RefinedWebModel", "multi_query": True, "n_head_kv": None},
            "falcon-7b",
        ),
    ],
)
def test_custom_code_becomes_falcon(
    config: dict[str, Any], variant: str, tmp_path: Path, tiny_model: Path
) -> None:
    # the tensors of both have the same names
    falcon = make(variant, tmp_path / "falcon", tiny_model)
    source = pickled(falcon, tmp_path / "old")
    config = {key: value for key, value in config.items() if value is not None}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(BezoarError, match=r"RefinedWeb\w* needs code .*bezoar convert"):
        resolve_model(str(source))
    convert(str(source), tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert not {"auto_map", "custom_pipelines", "n_head", "n_layer"} & written.keys()
    row = torch.tensor([[5, 6, 7, 8]])
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        old, new = (
            AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32)(row).logits
            for p in (falcon, tmp_path / "new")
        )
    assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
        ({"rotary_base": 500000}, "rotary_base"),
        ({"n_head_kv": None}, "n_head_kv"),
        ({"parallel_attn": False}, "parallel_attn"),
        ({"model_type": "RefinedWebModel"}, "n_head_kv"),
    ],
)
def test_custom_settings_that_falcon_lacks(change: dict[str, Any], key: str) -> None:
    with pytest.raises(DataError, match=rf"config.json: {key}.*: what this means"):
        falcon_config({**FORTY, **change, "auto_map": None}, Path("config.json"))
