"""Paths that the doctor found wrong are not used."""

from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from bezoar.errors import TrainingError
from bezoar.io import cached_hash, read_json, write_json
from bezoar.model import fast_paths as paths
from bezoar.model import packed
from bezoar.model.attention import attend
from bezoar.model.layer import fast_layers
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup, best_fit
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack

pytestmark = pytest.mark.usefixtures("cache_folder")


def test_slow_paths_take_their_place_and_give_the_same(tiny_model: Path) -> None:
    groups = [
        PromptGroup([1, 2], [Completion([3, 4], [True, True]), Completion([5], [True])]),
        PromptGroup([7], [Completion([8, 9], [True, True])]),
    ]
    spec = ModelSpec(str(tiny_model), dtype="float32")

    def hidden() -> torch.Tensor:
        with torch.no_grad():
            return Stack(spec).hidden(pack(groups))

    assert all(paths.usable(path) for path in paths.SWITCHED)
    fast = hidden()
    paths.note(["shared prompts", "fused layers", "attention by segments", "packing"])
    assert pack(groups).tokens.tolist() == [1, 2, 3, 1, 2, 7, 8]
    assert fast_layers(Stack(spec).net) == []
    assert torch.allclose(hidden(), fast, atol=1e-5)
    assert not torch.equal(hidden(), fast)
    assert best_fit([1, 2, 3], 10) == [[0], [1], [2]]
    assert paths.usable("recomputed activations")
    paths.note([])
    assert torch.equal(hidden(), fast)


def test_a_finding_is_of_this_machine(cache_folder: Path) -> None:
    paths.note(["packing"])
    assert not paths.usable("packing")
    write_json(
        cache_folder / "doctor.json",
        {**read_json(cache_folder / "doctor.json"), "machine": "another"},
    )
    paths._failed.cache_clear()
    assert paths.usable("packing")


def test_what_has_no_slow_path_stops_training(tiny_model: Path, tmp_path: Path) -> None:
    from bezoar.chat.templates import ChatML
    from bezoar.progress import Progress
    from bezoar.train.objectives import SFT
    from bezoar.train.settings import StageInputs
    from bezoar.train.stages import PPO, Train

    paths.note(["chunked head", "packing"])
    where = StageInputs(ModelSpec(str(tiny_model)), [], ChatML(), tmp_path / "w", tmp_path / "o")
    with pytest.raises(TrainingError, match=r"here \(chunked head\)"):
        Train("b", "r", SFT()).fit([], where, progress=Progress("s"), seed=0)
    with pytest.raises(TrainingError, match=r"here \(chunked head\)"):
        PPO("b", "reward", "r").fit([], where, progress=Progress("s"), seed=0)


@pytest.mark.parametrize("text", ['{"machine": ', "[]", '{"failed": 5}', ""])
def test_a_damaged_finding_is_set_aside(
    cache_folder: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = cache_folder / "doctor.json"
    file.write_text(text)
    paths._failed.cache_clear()
    assert paths.usable("packing")
    paths._failed.cache_clear()
    assert file.with_name("doctor.json.damaged").read_text() == text
    assert f"bezoar: {file}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0123", "not a hash, 16 ch"])
def test_a_damaged_note_of_a_hash_is_made_anew(
    cache_folder: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "file").write_text("a")
    whole = cached_hash(tmp_path / "file")
    [note] = (cache_folder / "hashes").iterdir()
    note.write_text(text)
    assert cached_hash(tmp_path / "file") == whole == note.read_text()


def test_where_flex_attention_does_not_compile_it_is_done_without_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU its backward pass does not exist, which is such a place."""
    monkeypatch.setattr(packed, "FLEX_DEVICES", {"cpu"})
    monkeypatch.setattr(packed, "_flex_faults", [])
    layout = pack([PromptGroup(list(range(5)), [Completion([1, 2, 3], [True] * 3)] * 2)]).layout
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, n, 9, 16, requires_grad=True) for n in (4, 2, 2))
    inputs = [query, key, value]
    # a block that is recomputed must not save what was only tried
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = checkpoint(layout.attend, 0, *inputs, use_reentrant=False)
    again = layout.attend(1, *inputs)
    told = capsys.readouterr().err.splitlines()
    print(told)
    assert [line[:43] for line in told] == ["bezoar: FlexAttention cannot be used here ("]
    assert told[0].endswith("); attention is computed segment by segment instead, which is slower.")
    expected = attend(*inputs, layout.segments)
    for out in (found, again):
        assert torch.equal(out, expected)
        gradients = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        wanted = torch.autograd.grad(expected.sum(), inputs, retain_graph=True)
        assert all(map(torch.equal, gradients, wanted))
