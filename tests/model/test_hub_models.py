"""Models on a Hub: what is fetched of them, gates, and weights that have to be converted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bezoar.errors import BezoarError, DataError, RecipeError
from bezoar.flow.reach import check_hub
from bezoar.model.convert import convert
from bezoar.model.find import local_config, local_folder
from bezoar.model.load import read_net
from bezoar.model.resolve import resolve_model
from bezoar.model.tokenizer import load_tokenizer
from tests.helpers.hub import TOKEN, Hub, serving_hub
from tests.model.test_convert import FORTY, pickled

OPEN_LLAMA = "openlm-research/open_llama_3b_v2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> Iterator[Hub]:
    with serving_hub(tmp_path / "hub") as served:
        served.use(monkeypatch, tmp_path / "home")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def sharded(source: Path, folder: Path) -> Path:
    """A model of two shards with an index, beside Mistral's own format of the same weights."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    net.save_pretrained(folder, max_shard_size="80KB")
    for file in source.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("consolidated.safetensors", "original/consolidated.00.pth", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)
    return folder


def test_weights_in_other_formats_are_not_fetched(
    hub: Hub, tiny_model: Path, tmp_path: Path
) -> None:
    name, source = "mistralai/Mistral-7B-v0.3", sharded(tiny_model, tmp_path / "two")
    hub.add(name, source)
    # its config alone, which tells whether it can be computed
    assert local_config(name) is None
    check_hub("model", name)
    fetched = [path for _, path, size in hub.asked if "resolve" in path and size]
    assert {path.rpartition("/")[2] for path in fetched} == {"config.json"}
    assert (local_config(name) or {})["model_type"] == "llama"
    folder = resolve_model(name)
    shards = {path.name for path in source.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert {path.name for path in folder.glob("*.safetensors")} == shards
    assert not hub.sent("consolidated")
    assert not hub.sent("onnx")
    assert read_net(folder, torch.float32).config.model_type == "llama"
    assert load_tokenizer(name)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", r"it is gated; accept its terms at https://huggingface\.co/meta-llama/Llama-3\.2-3B"),
        ("hf_other", r"the account of HF_TOKEN has no access; accept its terms at https://"),
    ],
)
def test_gates(
    hub: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    name = "meta-llama/Llama-3.2-3B"
    hub.add(name, tiny_model, gated="manual")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DataError, match=said):
        check_hub("model", name)
    with pytest.raises(RecipeError, match=said):
        resolve_model(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check_hub("model", name)
    assert read_net(resolve_model(name), torch.float32)


def test_a_gate_of_a_data_set(hub: Hub) -> None:
    files = {"README.md": b"open to all", "rows.json": b"[]"}
    hub.add("Salesforce/xlam", files, kind="datasets", gated="auto")
    with pytest.raises(DataError, match=r"https://huggingface\.co/datasets/Salesforce/xlam and"):
        check_hub("dataset", "Salesforce/xlam")


def test_pickled_weights_are_converted_once(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    hub.add(OPEN_LLAMA, pickled(tiny_model, tmp_path / "old"))
    # 1) before anything large is fetched, and at load
    for check in (lambda: check_hub("model", OPEN_LLAMA), lambda: resolve_model(OPEN_LLAMA)):
        with pytest.raises(BezoarError, match=rf"pickled.*`bezoar convert {OPEN_LLAMA}` once"):
            check()
    assert not hub.sent(".bin")
    # 2) as it says; then the same recipe goes on
    assert f"recipes that name {OPEN_LLAMA} use it" in convert(OPEN_LLAMA, None)
    folder = local_folder(OPEN_LLAMA)
    assert folder == resolve_model(OPEN_LLAMA)
    check_hub("model", OPEN_LLAMA)
    one, two = (read_net(p, torch.float32).state_dict() for p in (tiny_model, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert load_tokenizer(OPEN_LLAMA)
    # 3) again, or with nothing to convert
    with pytest.raises(RecipeError, match="it is there already"):
        convert(OPEN_LLAMA, None)
    hub.add("owner/fine", tiny_model)
    with pytest.raises(RecipeError, match=r"no pytorch_model\.bin in it"):
        convert("owner/fine", tmp_path / "out")


def test_custom_code_is_told_before_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    name = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v2"
    files = {"config.json": json.dumps(FORTY).encode(), "pytorch_model-00001-of-00018.bin": b"x"}
    hub.add(name, files)
    for check in (lambda: check_hub("model", name), lambda: resolve_model(name)):
        with pytest.raises(BezoarError, match=rf"model {name}: .*`bezoar convert {name}`"):
            check()
