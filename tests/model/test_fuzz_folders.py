"""Folders of a tiny model and an adapter with changed values and damaged bytes: a model that
answers, or one sentence."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.chat.types import Message
from bezoar.flow.model_argument import find_model
from bezoar.llm.local import StackBackend
from bezoar.llm.types import Request
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from tests.helpers.fuzzing import bounded, changed, damaged, fuzz, json_bytes

MODEL = (
    "config.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors",
)
ADAPTER = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "score_head.json",
    "score_head.safetensors",
)
ASKED = [
    Request((Message("user", "Hi"),), max_tokens=2),
    Request((Message("user", "Hi"),), choices=("Yes", "No")),
]


@st.composite
def harmed(draw: st.DrawFn, name: str, whole: bytes) -> bytes:
    """A file of a folder: the values of its JSON (of its header) changed, or its bytes damaged."""
    if draw(st.booleans()):
        return draw(damaged(whole, 2))
    if name.endswith(".json"):
        return json_bytes(draw(changed(json.loads(whole))))
    size = int.from_bytes(whole[:8], "little")
    header = json_bytes(draw(changed(json.loads(whole[8 : 8 + size]), 2)))
    return (
        draw(st.sampled_from([len(header), len(header), size, 2**63 - 1])).to_bytes(8, "little")
        + header
        + whole[8 + size :]
    )


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `adapter`, whole, to be copied."""
    place = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(tiny_model, place / "model")
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2, targets=("q_proj", "v_proj")), seed=0, outputs=("reward",))
    stack.save_trained(place)
    return place


def harm(data: st.DataObject, folder: Path, names: tuple[str, ...]) -> Path:
    """A copy of a folder in which one file is harmed, or gone."""
    copy = folder.with_name(f"{folder.name}-harmed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    name = data.draw(st.sampled_from(names))
    if data.draw(st.integers(0, 20)) == 0:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(data.draw(harmed(name, (folder / name).read_bytes())))
    return copy


@fuzz(0.08, few=15)
@given(data=st.data())
def test_no_model_folder_breaks_its_reader(data: st.DataObject, folders: Path) -> None:
    folder = harm(data, folders / "model", MODEL)
    with bounded():
        subject = find_model(str(folder), dtype="float32")
        assert subject.spec
        stack = Stack(subject.spec)
        for answered in StackBackend(stack, subject.template).answer(ASKED):
            assert len(answered) == len(ASKED)


@fuzz(0.04, few=8)
@given(data=st.data())
def test_no_adapter_breaks_its_reader(data: st.DataObject, folders: Path) -> None:
    folder = harm(data, folders / "adapter", ADAPTER)
    with bounded():
        subject = find_model(str(folder), base=str(folders / "model"), dtype="float32")
        assert subject.spec
        next(
            StackBackend(Stack(subject.spec, subject.adapters), subject.template).answer(ASKED[:1])
        )
