"""A stage knows what rows it gives and what it needs, so that a wrong name is found before anyone
is asked."""

import json
import typing
from pathlib import Path

import pytest

from bezoar.chat.row_types import RowType, type_of
from bezoar.chat.types import Comparison
from bezoar.data import SOURCES
from bezoar.data.columns import Table
from bezoar.flow.recipe import load_recipe
from bezoar.flow.row_types import row_types
from bezoar.flow.rundir import RunDir
from tests.helpers.command import bezoar, refused
from tests.helpers.server import serving

RECIPE = """name: typed
backends:
  teacher: {kind: endpoint, url: "URL", model: m, retries: 0}
models:
  base: {path: BASE}
stages:
  seeds: {kind: dolly, path: "bezoar:instructions.jsonl"}
  pairs: {kind: hh_rlhf, path: "bezoar:preferences_train.jsonl"}
  tasks: {kind: flan, path: "bezoar:tasks.jsonl"}
  labelled: {kind: helpsteer2, path: "bezoar:attributes_train.jsonl"}
  lamini: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 4}
  kept: {kind: filter, rows: lamini, judge: teacher}
  sampled: {kind: sample, seeds: seeds, model: base}
  own: {kind: best_of_n, rows: sampled, give: own}
"""
TRAIN = "  last: {kind: train, model: base, rows: %s, objective: {kind: %s}}\n"
EVAL = "  last: {kind: evaluate, model: base, %s}\n"


def written(folder: Path, model: Path, last: str, url: str = "http://127.0.0.1:9/v1") -> Path:
    path = folder / "typed.yaml"
    text = RECIPE.replace("URL", url).replace("BASE", str(model))
    path.write_text(text + last, encoding="utf-8")
    return path


WRONG = {
    "a DPO stage on chats": (
        TRAIN % ("kept", "dpo"),
        "last.rows: kept gives chats, and dpo needs comparisons",
    ),
    "SimPO": (
        TRAIN % ("seeds", "simpo"),
        "seeds gives chats, and simpo needs comparisons; name pairs or own",
    ),
    "ORPO on answers": (
        TRAIN % ("sampled", "orpo"),
        "sampled gives sampled answers, and orpo needs comparisons",
    ),
    "SFT on answers": (TRAIN % ("sampled", "sft"), "sft needs chats or comparisons"),
    "KTO without labels": (TRAIN % ("lamini", "kto"), "lamini gives chats without meta.desirable"),
    "SteerLM 2 on chats": (TRAIN % ("kept", "steerlm2"), "steerlm2 needs sampled answers with"),
    "SteerLM 2 without levels": (
        TRAIN % ("sampled", "steerlm2"),
        "answers without attribute_logprob and prior_logprob",
    ),
    "a reward model on chats": (
        TRAIN % ("kept", "bradley_terry"),
        "bradley_terry needs comparisons",
    ),
    "a reward model without strengths": (
        TRAIN.replace("%s}", "%s, loss_type: margin}") % ("pairs", "bradley_terry"),
        "pairs gives comparisons without meta.strength",
    ),
    "regression without labels": (
        TRAIN % ("pairs", "regression"),
        "comparisons with meta.helpfulness_chosen; name labelled",
    ),
    "best of one": (
        "  last: {kind: best_of_n, rows: kept}\n",
        "best_of_n needs sampled answers with reward",
    ),
    "the best by no number": (
        "  last: {kind: best_of_n, rows: sampled}\n",
        "sampled gives sampled answers without reward",
    ),
    "levels of unlabelled rows": (
        "  last: {kind: steer, rows: kept}\n",
        "kept gives chats without meta.attributes, and steer",
    ),
    "another attribute": (
        "  last: {kind: steer, rows: labelled, only: [wit]}\n",
        "without meta.attributes.wit",
    ),
    "pairs by attributes": (
        "  last: {kind: attribute_pairs, rows: seeds}\n",
        "attribute_pairs needs chats with meta.attributes",
    ),
    "a judge of answers": (
        "  last: {kind: filter, rows: sampled, judge: teacher}\n",
        "filter needs chats or comparisons",
    ),
    "tasks of no sub-mix": (
        "  last: {kind: orca, seeds: seeds, teacher: teacher, num_rows: 4}\n",
        "orca needs chats with meta.submix; name tasks",
    ),
    "preferences of chats": (
        EVAL % "preferences: {rows: seeds}",
        "last.preferences.rows: seeds gives chats, and preferences needs comparisons",
    ),
    "a win rate over no answers": (
        EVAL % "over_rows: {rows: sampled, judge: teacher}",
        "over_rows needs chats or comparisons",
    ),
    "gold pairs that are chats": (
        EVAL % "reward_bench: {rows: kept, by: log-prob}",
        "reward_bench needs comparisons",
    ),
    "the text of answers": (
        EVAL % "overlap: {rows: sampled}",
        "overlap needs chats or comparisons",
    ),
}


@pytest.mark.parametrize(("last", "what"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rows_are_refused_before_anyone_is_asked(
    last: str, what: str, tmp_path: Path, tiny_model: Path
) -> None:
    with serving() as server:
        path = written(tmp_path, tiny_model, last, server.url)
        for words in (("plan", path), ("run", path, "--out", tmp_path / "runs" / "typed")):
            told = refused(*words)
            assert f"{path}:15: stages.last." in told
            assert what in told
        assert not server.bodies
    assert not list((tmp_path / "runs" / "typed").glob("*/rows.parquet"))


RIGHT = [
    TRAIN % ("pairs", "sft"),
    TRAIN % ("own", "dpo"),
    TRAIN % ("pairs", "kto"),
    TRAIN % ("labelled", "regression"),
    "  last: {kind: steer, rows: labelled, only: [verbosity]}\n",
    EVAL % "preferences: {rows: own}",
    EVAL % "overlap: {rows: kept}",
]


@pytest.mark.parametrize("last", RIGHT)
def test_right_rows_pass(last: str, tmp_path: Path, tiny_model: Path) -> None:
    assert "last" in bezoar("plan", written(tmp_path, tiny_model, last))


def test_several_mistakes_are_told_at_once(tmp_path: Path, tiny_model: Path) -> None:
    last = TRAIN % ("kept", "dpo") + (EVAL % "preferences: {rows: seeds}").replace("last", "eval")
    told = refused("plan", written(tmp_path, tiny_model, last))
    assert ":15: stages.last.rows: " in told
    assert ":16: stages.eval.preferences.rows: " in told


def test_filters_give_what_they_read(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"prompt": "Is it?", "response": f"It is {n}.", "meta": {"attributes": {"wit": n}}}
        for n in range(3)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = (
        "  chats: {kind: jsonl, path: own.jsonl}\n"
        "  short: {kind: form, rows: chats, max_words: 40}\n"
        "  one: {kind: dedup, rows: short}\n"
        "  judged: {kind: filter, rows: one, judge: teacher}\n"
        "  head: {kind: train, model: base, rows: judged,\n"
        "    objective: {kind: regression, attributes: [wit]}}\n"
        "  more: {kind: label, rows: seeds, model: head}\n"
        "  both: {kind: attribute_pairs, rows: more, weights: {wit: 1}}\n"
        "  dpo: {kind: train, model: base, rows: both, objective: {kind: dpo}}\n"
    )
    path = written(tmp_path, tiny_model, last)
    recipe = load_recipe(path)
    types = row_types(recipe, RunDir(tmp_path / "runs"), set())
    assert types["judged"].fits(RowType("chats", frozenset({"attributes.wit", "verdict"})))
    assert types["more"].fits(RowType("chats", frozenset({"attributes.wit"})))
    assert types["both"] == RowType("comparisons", frozenset({"strength"}))
    assert "dpo" in bezoar("plan", path)
    path.write_text(path.read_text().replace("attributes: [wit]", "attributes: [charm]"))
    assert "judged gives chats without meta.attributes.charm" in refused("plan", path)


def test_what_is_on_the_hub_is_known_by_its_kind(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BEZOAR_DATA", raising=False)
    recipe = load_recipe(
        written(
            tmp_path,
            tiny_model,
            "  hh: {kind: hh_rlhf, path: Anthropic/hh-rlhf}\n"
            "  any: {kind: hub, path: HuggingFaceH4/ultrachat_200k}\n"
            "  dolly: {kind: dolly, path: databricks/databricks-dolly-15k}\n",
        )
    )
    types = row_types(recipe, RunDir(tmp_path / "runs"), set())
    assert types["hh"] == RowType("comparisons")
    assert types["any"] == RowType()
    assert types["dolly"] == RowType("chats")


def test_a_source_on_the_hub_says_the_shape_that_it_reads() -> None:
    for name, source in SOURCES.items():
        item = typing.get_type_hints(source.read)["return"]
        # rows of any columns are known when they are read
        if not issubclass(source, Table):
            wanted = "comparisons" if Comparison in typing.get_args(item) else "chats"
            assert source.shape == wanted, name


def test_rows_of_a_finished_stage_are_looked_at(tmp_path: Path, tiny_model: Path) -> None:
    pairs = [{"prompt": "A?", "chosen": f"Yes {n}.", "rejected": "No."} for n in range(3)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    path = tmp_path / "r.yaml"
    path.write_text("name: r\nstages:\n  own: {kind: jsonl, path: own.jsonl}\n")
    bezoar("run", path, "--out", tmp_path / "runs" / "r")
    types = row_types(load_recipe(path), RunDir(tmp_path / "runs" / "r"), {"own"})
    assert types["own"].shape == "comparisons"


def test_nothing_is_known_of_no_rows() -> None:
    assert type_of([]) == RowType()


def test_rows_held_out_are_no_advice_for_a_training(tmp_path: Path, tiny_model: Path) -> None:
    path = written(tmp_path, tiny_model, TRAIN % ("seeds", "dpo"))
    held = 'preferences_train.jsonl", held_out: 0.2}'
    path.write_text(path.read_text().replace('preferences_train.jsonl"}', held))
    assert "dpo needs comparisons; name pairs or own." in refused("plan", path)


def test_a_file_that_is_not_there_is_told_once_with_its_line(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = written(tmp_path, tiny_model, TRAIN % ("pairs", "dpo"))
    held = "path: nowhere.jsonl, held_out: 0.2}"
    path.write_text(path.read_text().replace('path: "bezoar:preferences_train.jsonl"}', held))
    said = refused("plan", path)
    assert said.count("nowhere.jsonl: no such file") == 1
    assert "typed.yaml:8: stages.pairs.path: " in said
