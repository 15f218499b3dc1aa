"""What a new user types first: `python -m bezoar`, names that are wrong, `/help`, a stage without
rows; and what a log file shows of a long run."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar import progress
from bezoar.errors import BezoarError
from bezoar.flow.model_argument import find_model
from bezoar.progress import Progress
from bezoar.terminal import Console
from tests.helpers.command import bezoar

RECIPE = """\
name: toy
template: {{kind: chatml}}
models: {{base: {{path: "{model}", dtype: float32}}}}
stages:
  rows: {{kind: jsonl, path: rows.jsonl}}
  sft:
    {{kind: train, model: base, rows: rows, objective: {{kind: sft}}, validation: 0, batch_size: 2}}
"""


def test_python_m_bezoar_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bezoar", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == bezoar("version")


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    rows = [{"prompt": f"say {n}", "response": f"{n}"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE.format(model=tiny_model))
    monkeypatch.chdir(tmp_path)
    bezoar("run", "r.yaml")
    return "runs/toy"


def test_a_finished_run(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1) a training stage says what it has instead of rows
    told = bezoar("rows", run, "sft")
    assert "sft is a training stage: it gives a model and no rows of its own." in told
    assert "steps 2, " in told
    assert f"{run}/02-sft/adapter" in told
    assert f"bezoar rows {run} rows\n" in told
    shown = bezoar("rows", run, "sft", "--tokens", "-n", 1)
    # without colours what is trained stands in brackets: the answer and its end
    assert shown.count("[<|im_end|>]") == 1
    assert "[<|im_start|>]" not in shown
    assert "<|im_start|>" in shown
    # 2) wrong names list those that exist
    for words in (
        ("rows", run, "sfft"), ("why", "r.yaml", "sfft"), ("chat", run, "-m", "sfft"),
        ("ask", run, "hi", "-m", "sfft"), ("export", run, "-m", "sfft", "--out", "x"),
        ("rows", run, "sfft", "--tokens"), ("eval", f"{run}:sfft"),
    ):  # fmt: skip
        with pytest.raises(
            BezoarError, match=r"named 'sfft'; the \w+ are .*sft; did you mean sft\?"
        ):
            bezoar(*words)
    # 3) commands of a conversation, and a text that begins with /
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/halp\n/model\n /etc?\n/q\nhi\n"))
    from bezoar.flow.chat import converse
    from bezoar.flow.inspect_run import find_run

    converse(*find_run(Path(run)), "sft", start=(), temperature=0.0)
    said = capsys.readouterr()
    assert "/help   this list" in said.err
    assert "there is no command /halp; there are /help, /clear, /model and /exit" in said.err
    assert "sft; the others are base\n" in said.err
    assert said.out.count("\n") >= 1  # the answer to " /etc?", and none to what follows /q
    assert "earlier settings" not in said.err


def test_a_model_of_earlier_settings_answers_and_says_so(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path("r.yaml")
    recipe.write_text(recipe.read_text().replace("batch_size: 2", "batch_size: 1"))
    told = "sft: this is the output of earlier settings; `bezoar why runs/toy sft` says what"
    assert bezoar("chat", "r.yaml").count(told) == 1
    assert bezoar("ask", "r.yaml", "hi").count(told) == 1
    capsys.readouterr()
    find_model(f"{run}:sft")
    assert told in capsys.readouterr().err


def test_a_training_tells_its_steps_and_what_its_loss_did(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    recipe, folder = Path("r.yaml"), Path(run)
    settings = "batch_size: 1, epochs: 3, lr: 1e-3"
    recipe.write_text(recipe.read_text().replace("batch_size: 2", settings))
    told = bezoar("run", recipe)
    assert "  sft steps: 1 of 12, " in told

    def logged(name: str) -> list[float]:
        lines = (json.loads(line) for line in (folder / "metrics.jsonl").open())
        return [line[name] for line in lines if name in line]

    # of one row each, so that one batch says nothing; a tenth of 12 steps is one
    losses = logged("loss")
    assert f"; mean loss {losses[0]:.3f} -> {losses[-1]:.3f}; " in told
    recipe.write_text(recipe.read_text().replace("epochs: 3", "epochs: 5"))
    told = bezoar("run", recipe)
    losses = logged("loss")
    first, last = sum(losses[:2]) / 2, sum(losses[-2:]) / 2
    assert f"; mean loss {first:.3f} -> {last:.3f}; " in told
    recipe.write_text(recipe.read_text().replace("validation: 0", "validation: 0.25"))
    told, losses = bezoar("run", recipe), logged("validation_loss")
    assert f"; validation loss {losses[0]:.3f} -> {losses[-1]:.3f}; " in told
    assert len(losses) > 2


def test_an_unknown_kind_lists_those_that_exist(run: str) -> None:
    recipe = Path("r.yaml")
    recipe.write_text(recipe.read_text().replace("{kind: sft}", "{kind: cpo}"))
    with pytest.raises(BezoarError, match=r"kind .cpo.*did you mean ipo.*are sft.*simpo.*asft"):
        bezoar("plan", recipe)


def test_a_log_file_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    log = io.StringIO()
    with Progress("sft", console=Console(file=log)).bar("steps", 40) as advance:
        for step in range(40):
            advance(note=f"loss {step}")
    lines = log.getvalue().splitlines()
    # 40 steps of 4 s: a line after 32 s each time, none at the end, which the stage's line tells
    assert lines == [
        "  sft steps: 8 of 40, 0:32, about 2:08 left, loss 7",
        "  sft steps: 16 of 40, 1:04, about 1:36 left, loss 15",
        "  sft steps: 24 of 40, 1:36, about 1:04 left, loss 23",
        "  sft steps: 32 of 40, 2:08, about 0:32 left, loss 31",
    ]
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()
