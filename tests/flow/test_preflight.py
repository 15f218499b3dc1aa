"""What would stop a run is an error of `plan` and of the start of `run`: nobody was asked."""

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import bezoar, refused
from tests.helpers.server import answer, serving

RECIPE = """name: early
backends:
  teacher: {kind: endpoint, url: "URL", model: m, retries: 0}
models:
  base: {path: MODEL}
TEMPLATE
stages:
  seeds: {kind: jsonl, path: seeds.jsonl}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 4}
  sft: {kind: train, model: base, rows: made, objective: {kind: sft}}
"""
LINES = {"teacher": 3, "model": 5, "template": 6, "seeds": 8, "made": 9, "sft": 10}


def written(folder: Path, model: object, url: str, **changes: str) -> Path:
    (folder / "seeds.jsonl").write_text(
        "".join(json.dumps({"prompt": f"What of {n}?", "response": "This."}) + "\n" for n in "abc")
    )
    text = (
        RECIPE.replace("URL", url)
        .replace("MODEL", str(model))
        .replace("TEMPLATE", "template: {kind: chatml}")
    )
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "early.yaml").write_text(text, encoding="utf-8")
    return folder / "early.yaml"


def told(path: Path, server: Any, *, where: str, what: str) -> None:
    """The sentence of both verbs, and that nobody heard of it and nothing was made."""
    out = path.parent / "runs" / "early"
    for words in (("plan", path, "--out", out), ("run", path, "--out", out)):
        started = time.monotonic()
        text = refused(*words)
        assert f"{path}:{LINES[where]}: " in text
        assert what in text
        assert time.monotonic() - started < 20
    assert not server.bodies
    assert not list(out.glob("*-*"))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("./nowhere", "model ./nowhere: no such folder, and not a Hub id"),
        ("/nowhere/at/all", "model /nowhere/at/all: no such folder"),
        ("empty", "no such folder, and not a Hub id"),
    ],
)
def test_a_model_that_is_not_there(path: str, what: str, tmp_path: Path) -> None:
    with serving() as server:
        told(written(tmp_path, path, server.url), server, where="model", what=what)


@pytest.mark.parametrize(
    ("file", "what"),
    [("config.json", "no config.json"), ("model.safetensors", "no model.safetensors or")],
)
def test_a_model_folder_that_lacks_a_file(
    file: str, what: str, tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    with serving() as server:
        told(written(tmp_path, tmp_path / "model", server.url), server, where="model", what=what)


def test_a_template_whose_tokens_the_tokenizer_lacks(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("<|im_end|>", "<|over|>"))
    with serving() as server:
        path = written(tmp_path, folder, server.url)
        told(path, server, where="template", what="the tokenizer has no token <|im_end|>")
        path = written(tmp_path, folder, server.url, **{"kind: chatml": "kind: hub"})
        told(path, server, where="template", what="the model folder has no chat template")
        path = written(tmp_path, folder, server.url, **{"kind: chatml": "kind: openbezoar"})
        assert "sft" in bezoar("plan", path)


def test_targets_that_the_model_lacks(tmp_path: Path, tiny_model: Path) -> None:
    with serving(answer("x")) as server:
        targets = "model: base, adapter: {targets: [query_key_value]}"
        path = written(tmp_path, tiny_model, server.url, **{"model: base": targets})
        what = "no linear layer named query_key_value; it has q_proj, k_proj, v_proj, o_proj"
        told(path, server, where="sft", what=what)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mamba", "the architecture mamba (it carries a state from token to token)"),
        ("t5", "config.json: no language model can be built from it"),
        ("gpt2", "has no linear layers that could carry them; set adapter: null"),
    ],
)
def test_an_architecture_by_its_config_alone(
    kind: str, why: str, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import CONFIG_MAPPING

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG_MAPPING[kind]().to_dict()))
    with serving() as server:
        # the weights, which are those of another model, are not looked at
        where = "sft" if kind == "gpt2" else "model"
        told(written(tmp_path, folder, server.url), server, where=where, what=why)


def test_an_endpoint_without_its_key(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        path = written(
            tmp_path, tiny_model, server.url, **{"model: m,": "model: m, key_env: A_KEY,"}
        )
        for value in (None, "", "  "):
            if value is not None:
                monkeypatch.setenv("A_KEY", value)
            told(path, server, where="teacher", what="the environment variable A_KEY")
        monkeypatch.setenv("A_KEY", "EMPTY")
        assert "made" in bezoar("plan", path)


def test_a_plan_is_shown_though_a_key_is_not_set(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from bezoar.cli import app
    from bezoar.errors import RecipeError

    with serving() as server:
        path = written(
            tmp_path, tiny_model, server.url, **{"model: m,": "model: m, key_env: A_KEY,"}
        )
        done = CliRunner().invoke(app, ["plan", str(path)])
    assert isinstance(done.exception, RecipeError)
    assert "3 of 3 stages would run" in done.output


@pytest.mark.parametrize(
    ("model", "change", "where", "what"),
    [
        (
            "owner/no-such-model",
            {},
            "model",
            "model owner/no-such-model: it is not in the cache, and HF_HUB_OFFLINE",
        ),
        (
            "",
            {"kind: jsonl, path: seeds.jsonl": "kind: hub, path: owner/rows"},
            "seeds",
            "dataset owner/rows: it is not in the cache",
        ),
    ],
)
def test_a_name_of_the_hub_that_cannot_be_had(
    model: str, change: dict[str, str], where: str, what: str, tmp_path: Path, tiny_model: Path
) -> None:
    with serving() as server:
        told(
            written(tmp_path, model or tiny_model, server.url, **change),
            server,
            where=where,
            what=what,
        )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such file"),
        ("", "the file holds no rows"),
        ('{"prompt": "a"', "seeds.jsonl:1: not valid JSON"),
        ('{"prompt": "a", "response": ""}', "gives no row"),
        ('{"question": "a"}', "seeds.jsonl:1: the row has none of the columns"),
    ],
)
def test_a_source_without_rows(
    content: str | None, what: str, tmp_path: Path, tiny_model: Path
) -> None:
    with serving() as server:
        path = written(tmp_path, tiny_model, server.url)
        (tmp_path / "seeds.jsonl").unlink()
        if content is not None:
            (tmp_path / "seeds.jsonl").write_text(content)
        told(path, server, where="seeds", what=what)


def test_a_broken_source_behind_a_paid_stage(tmp_path: Path, tiny_model: Path) -> None:
    with serving() as server:
        path = written(tmp_path, tiny_model, server.url)
        path.write_text(path.read_text() + "  held-out: {kind: hh_rlhf, path: pairs.jsonl}\n")
        (tmp_path / "pairs.jsonl").write_text('{"chosen": "a"}\n')
        assert "early.yaml:11: stages.held-out: " in refused("run", path, "--out", tmp_path / "r")
        assert not server.bodies


def test_a_prompt_file_that_is_not_there(tmp_path: Path, tiny_model: Path) -> None:
    with serving() as server:
        path = written(
            tmp_path, tiny_model, server.url, **{"num_rows: 4": "num_rows: 4, guided: my.txt"}
        )
        told(path, server, where="made", what="stages.made.guided: no such file")


def test_a_server_that_is_not_there_yet_is_a_warning(tmp_path: Path, tiny_model: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        path = written(tmp_path, tiny_model, f"http://127.0.0.1:{port}/v1")
        said = bezoar("plan", path).replace("\n", " ")
    assert (
        f"warning: {path}:3: backends.teacher.url: 127.0.0.1:{port} accepts no connection" in said
    )


def test_what_is_current_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(json.dumps({"prompt": f"Is {n} so?", "response": "Yes."}) + "\n" for n in "abc")
    (tmp_path / "seeds.jsonl").write_text(rows)
    path = tmp_path / "r.yaml"
    with serving(lambda body, seen: answer("Accept: fine")) as server:
        path.write_text(
            "name: r\nbackends:\n  judge:\n"
            f'    {{kind: endpoint, url: "{server.url}", model: m, key_env: A_KEY}}\n'
            "stages:\n  seeds: {kind: jsonl, path: seeds.jsonl}\n"
            "  kept: {kind: filter, rows: seeds, judge: judge}\n"
        )
        monkeypatch.setenv("A_KEY", "EMPTY")
        bezoar("run", path, "--out", tmp_path / "runs" / "r")
        monkeypatch.delenv("A_KEY")
        assert len(server.bodies) == 3
    assert "0 of 2 stages would run" in bezoar("plan", path, "--out", tmp_path / "runs" / "r")
    bezoar("run", path, "--out", tmp_path / "runs" / "r")
