"""The numbers of training go to metrics.jsonl and to boards."""

import importlib.util
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bezoar.errors import RecipeError
from bezoar.progress import METRIC_SINKS, Progress, _hosted, open_metric_sinks


def test_tensorboard_shows_what_metrics_hold(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_metric_sinks(["tensorboard"], tmp_path) as boards:
        progress = Progress("sft", tmp_path / "metrics.jsonl", boards=boards)
        progress.log(step=1, loss=2.5, lr=0.5, note="text is no number")
        progress.log(step=2, loss=1.25, lr=0.25)
        progress.log(said="nothing of a step")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["sft/loss", "sft/lr"]
    assert [(e.step, e.value) for e in events.Scalars("sft/loss")] == [(1, 2.5), (2, 1.25)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("loss") for line in lines] == [2.5, 1.25, None]


def test_a_hosted_board_has_the_steps_of_each_stage_as_numbers(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from tests.helpers import hosted_board

    with ExitStack() as stack:
        board = _hosted("tests.helpers.hosted_board", tmp_path / "runs" / "demo", stack)
        Progress("sft", boards=[board]).log(step=1, loss=2.0)
        Progress("dpo", boards=[board]).log(step=1, loss=0.5)
        assert hosted_board.STATE == {"project": "bezoar", "name": "demo", "open": True}
    assert hosted_board.LINES == [
        {"sft/step": 1, "sft/loss": 2.0},
        {"dpo/step": 1, "dpo/loss": 0.5},
    ]
    assert not hosted_board.STATE["open"]


def test_what_is_unknown_or_missing_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RecipeError, match="--log tensorbord: there is no such board"),
        open_metric_sinks(["tensorbord"], tmp_path),
    ):
        pass
    missing = [kind for kind in METRIC_SINKS if importlib.util.find_spec(kind) is None]
    for kind in missing:
        with (
            pytest.raises(RecipeError, match=f"run `pip install {kind}`"),
            open_metric_sinks([kind], tmp_path),
        ):
            pass
