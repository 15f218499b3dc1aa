"""ExPO: weights on the line from where training began, beyond where it ended."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Comparison, Message
from bezoar.errors import RecipeError
from bezoar.model.completions import reward_completions
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.objectives.bradley_terry import BradleyTerry
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train

PROMPT = (Message("user", "hi"),)
ROWS = [Comparison(str(i), PROMPT, "good " * (i + 1), "bad " * (i + 1)) for i in range(4)]
STAGE = Train(
    "m",
    "rows",
    BradleyTerry(output="reward"),
    adapter=LoRA(r=2, dropout=0.0),
    lr=1e-2,
    batch_size=2,
    validation=0.0,
)


def fit(stage: Train, spec: ModelSpec, below: list[Path], out: Path) -> Stack:
    inputs = StageInputs(spec, below, ChatML(), out / "work", out / "out")
    stage.fit(ROWS, inputs, progress=Progress("s"), seed=3)
    if stage.adapter is None:
        return Stack(replace(spec, path=str(out / "out" / "model")), [])
    return Stack(spec, [out / "out" / "adapter"])


def merged(stack: Stack) -> dict[str, torch.Tensor]:
    """The weights of linear layers with all adapters in them, and the head."""
    weights = {}
    for name, layer in stack.layers():
        weights[name] = layer.merged().detach()
    if not weights:
        weights = {n: p.detach() for n, p in stack.net.named_parameters() if p.ndim == 2}
    assert stack.score_head is not None
    return {**weights, "head": stack.score_head.weight.detach()}


@pytest.mark.parametrize("whole", [False, True], ids=["adapter", "all weights"])
def test_the_result_lies_on_the_line(tiny_model: Path, tmp_path: Path, whole: bool) -> None:
    spec = ModelSpec(str(tiny_model), dtype="float32")
    first = replace(STAGE, adapter=None) if whole else STAGE
    weak = fit(first, spec, [], tmp_path / "weak")
    below = [] if whole else [tmp_path / "weak" / "out" / "adapter"]
    strong = fit(first, weak.spec, below, tmp_path / "strong")
    beyond = fit(replace(first, extrapolate=1.5), weak.spec, below, tmp_path / "beyond")
    start, end, found = merged(weak), merged(strong), merged(beyond)
    moved = 0.0
    for name, weight in found.items():
        expected = start[name] + 1.5 * (end[name] - start[name])
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
        moved += float((end[name] - start[name]).abs().max())
    assert moved > 1e-3
    scores = [
        reward_completions(stack, ChatML(), [PROMPT], [["good good"]])[0][0][0]
        for stack in (strong, beyond)
    ]
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


def test_a_head_that_begins_anew_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    spec = ModelSpec(str(tiny_model), dtype="float32")
    with pytest.raises(RecipeError, match="stage s: extrapolate: the model below has no head with"):
        fit(replace(STAGE, extrapolate=1.5), spec, [], tmp_path)
