"""Items that a model was trained on: found in the rows of every training stage below it."""

import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bezoar.chat.types import AnyRow, Chat, Comparison, Message
from bezoar.evals.contamination import Items, compared, row_texts, search
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.outcome import benchmark_of, joined, read_scores, remarks, trained_on
from bezoar.evals.unread import Unread
from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import remove
from bezoar.stage import TrainedStage
from tests.helpers.command import bezoar

LONG = "Name the long river that flows through the old town of Aarau in the summer months"


def chat(name: str, prompt: str, answer: str, system: str = "") -> Chat:
    first = (Message("system", system),) if system else ()
    return Chat(name, (*first, Message("user", prompt), Message("assistant", answer)))


def pair(name: str, prompt: str, chosen: str, rejected: str) -> Comparison:
    return Comparison(name, (Message("user", prompt),), chosen, rejected)


def counts(rows: list[AnyRow], *texts: tuple[str, str, str], n: int = 8) -> dict[str, int]:
    items = Items.of({"b": texts}, n)
    table = compared(items, {"rows": search(rows, items)})["benchmarks"]["b"]
    assert isinstance(table, dict)
    return table


def test_shared_runs_of_words_are_found_with_their_row() -> None:
    item = "What is the name of the long river that flows through the old town of Aarau in summer"
    rows = [
        chat("r1", "Tell me about rivers.", "no"),
        chat("r2", "Q: the NAME of the long river that flows, through the old town of Aarau?", ""),
    ]
    items = Items.of({"quiz": [("1", item, ""), ("2", f"Another {LONG} and some more", "")]}, 8)
    found = compared(items, {"pairs": search(rows, items)})
    touch = found["touched"][0]
    assert (touch["item"], touch["stage"], touch["row"]) == ("1", "pairs", "r2")
    # 18 words give 11 runs of 8; 14 shared words give 7
    assert touch["share"] == pytest.approx(7 / 11)
    assert found["benchmarks"]["quiz"] == {
        "items": 2,
        "touched": 2,
        "exact": 0,
        "trained_on": 1,
        "same_prompt": 0,
    }
    assert found["rows"] == {"pairs": 2}


def test_half_of_the_runs_are_enough_from_several_stages() -> None:
    words = [f"w{i}" for i in range(17)]  # ten runs of eight words
    items = Items.of({"b": [("i", " ".join(words), "")]}, 8)
    first, second = ([chat("r", " ".join(part), "")] for part in (words[:10], words[7:16]))
    tables = [compared(items, {"one": search(rows, items)}) for rows in (first, second)]
    # three and two runs of ten
    assert [t["benchmarks"]["b"]["trained_on"] for t in tables] == [0, 0]
    assert [t["touched"][0]["share"] for t in tables] == [0.3, 0.2]
    both = compared(items, {"one": search(first, items), "two": search(second, items)})
    assert both["touched"][0]["share"] == 0.5
    assert both["benchmarks"]["b"]["trained_on"] == 1


def test_equal_rows_count_however_short() -> None:
    item = ("i", "2 + 2?", "4")
    assert counts([chat("r", "2 + 2?", "4")], item)["exact"] == 1
    assert counts([chat("r", " 2 +  2? ", "4\n", system="Be brief.")], item)["trained_on"] == 1
    assert counts([pair("r", "2 + 2?", "5", "4")], item)["exact"] == 1
    # another answer to so short a prompt is another item, and so is another sum
    assert counts([chat("r", "2 + 2?", "5")], item)["trained_on"] == 0
    assert counts([chat("r", "2 - 2?", "4")], item)["trained_on"] == 0
    # an item without an answer is its prompt
    assert counts([chat("r", "Hi there", "Hello")], ("i", "hi there", ""))["exact"] == 1


def test_a_prompt_with_another_answer_is_another_item_and_counted_apart() -> None:
    rows: list[AnyRow] = [chat("r", LONG, "I do not know that one, please look it up on some map")]
    for answer in ("The Aare", "It is the river Aare, which comes from the Alps"):
        table = counts(rows, ("i", LONG, answer))
        assert (table["trained_on"], table["same_prompt"], table["touched"]) == (0, 1, 1)
    # the right answer with a few words more
    leak = pair("r", LONG, "no", "It is the river Aare, which comes from the Alps, I think.")
    assert counts([leak], ("i", LONG, "It is the river Aare, which comes from the Alps")) == {
        "items": 1,
        "touched": 1,
        "exact": 0,
        "trained_on": 1,
        "same_prompt": 0,
    }


def test_short_items_count_whole_and_very_short_ones_not_at_all() -> None:
    rows: list[AnyRow] = [chat("r", "well, the sun rises in the east, always", "yes")]
    table = counts(
        rows,
        ("short", "The sun rises in the east", ""),
        ("tiny", "the sun", ""),
        ("other", "the moon rises in the east", ""),
    )
    assert table == {"items": 3, "touched": 1, "exact": 0, "trained_on": 1, "same_prompt": 0}


def test_text_without_spaces_is_read_by_characters() -> None:
    rows: list[AnyRow] = [chat("r", "请问夏天流过阿劳老城的那条长河叫什么名字呢", "阿勒河")]
    assert counts(rows, ("i", "夏天流过阿劳老城的那条长河叫什么名字", ""))["trained_on"] == 1


def test_words_of_a_template_are_no_evidence() -> None:
    frame = "Below is a task. Write a response that completes the task as well as you can: "
    texts = [(str(i), frame + f"sort the numbers {i} {i + 1} {i + 2}", "") for i in range(20)]
    rows: list[AnyRow] = [chat("r", frame + "paint a picture of your cat", "done")]
    assert counts(rows, *texts)["trained_on"] == 0
    rows.append(chat("leak", texts[3][1], "3 4 5"))
    assert counts(rows, *texts)["trained_on"] == 1


def test_of_several_texts_of_an_item_one_is_enough() -> None:
    both = [("i", LONG, ""), ("i", f"{LONG}\n{' '.join(map(str, range(60)))}", "")]
    table = counts([chat("r", LONG, "the Aare")], *both)
    assert table == {"items": 1, "touched": 1, "exact": 1, "trained_on": 1, "same_prompt": 0}


def test_a_row_is_read_with_each_of_its_answers() -> None:
    assert row_texts(chat("c", "one", "two", system="Be brief.")) == ["one\ntwo"]
    assert row_texts(pair("p", "q", "yes", "no")) == ["q\nyes", "q\nno"]


def test_many_rows_stream() -> None:
    rng = random.Random(0)
    words = [f"word{i}" for i in range(5000)]

    def rows() -> Iterator[AnyRow]:
        for number in range(5000):
            texts = rng.choices(words, k=100)
            yield chat(f"r{number}", " ".join(texts[:40]), " ".join(texts[40:]))
        yield chat("leak", LONG, "the Aare")

    items = Items.of({"b": [("i", LONG, "")]}, 8)
    started = time.process_time()
    found = search(rows(), items)
    # 0.4 s on a quiet machine, with the making of the rows
    assert time.process_time() - started < 5
    assert found["rows"] == 5001
    assert compared(items, {"x": found})["touched"][0]["row"] == "leak"


def test_sentences_are_found_in_any_info() -> None:
    benchmarks = {
        "preferences": {"items": 20, "trained_on": 20},
        "win rate": {"items": 9, "trained_on": 0},
        "odd": 3,
    }
    info: dict[str, Any] = {"contamination": {"benchmarks": benchmarks}}
    assert trained_on(info) == {"preferences": "trained on 20 of 20 of these items"}
    assert "preferences: the model was trained on 20 of 20" in remarks(info)[0]
    for odd in ({}, {"contamination": 3}, {"contamination": {"benchmarks": ["x"]}}):
        assert trained_on(odd) == {}
    names = ("preferences/log-prob accuracy", "ROUGE-L", "reward/KL", "revision 2/win rate", "acc")
    starts = [benchmark_of(name) for name in names]
    assert starts == ["preferences", "overlap", "rewards", "revision", "acc"]


def test_two_evaluations_of_a_model_are_read_together() -> None:
    counts = {"items": 4, "trained_on": 4}
    first = {"contamination": {"n": 8, "benchmarks": {"mt_bench": counts}}, "mt_bench": {"x": 1}}
    second = {"contamination": {"n": 8, "benchmarks": {"preferences": counts}}}
    info = joined(first, second)
    assert trained_on(info).keys() == {"mt_bench", "preferences"}
    assert info["mt_bench"] == {"x": 1}
    assert trained_on(first).keys() == {"mt_bench"}


RECIPE = """\
name: tiny
models:
  base: {{path: {model}, dtype: float32}}
stages:
  pairs: {{kind: hh_rlhf, path: "bezoar:preferences_train.jsonl", limit: 12}}
  held-out: {{kind: hh_rlhf, path: "bezoar:preferences_test.jsonl", limit: 12}}
  rows: {{kind: dolly, path: "bezoar:instructions.jsonl", limit: 12}}
  leaked: &sft
    kind: train
    model: base
    rows: {leak}
    objective: {{kind: sft}}
    max_steps: 1
    batch_size: 4
    validation: 0.0
    max_length: 4096
  dpo: {{<<: *sft, model: leaked, rows: pairs, objective: {{kind: dpo}}}}
  eval-base: &eval {{kind: evaluate, model: base, preferences: {{rows: held-out}}}}
  eval-dpo: {{<<: *eval, model: dpo}}
"""


def evaluated(
    leak: str, model: Path, folder: Path, recipe: str = RECIPE
) -> tuple[dict[str, Any], str]:
    """info of the evaluations of a model whose lowest stage was trained on `leak`."""
    (folder / "recipe.yaml").write_text(recipe.format(model=model, leak=leak))
    console = Console(file=io.StringIO(), width=200)
    run = RunDir(folder / "runs" / "tiny")
    run_recipe(load_recipe(folder / "recipe.yaml"), run, console=console)
    infos = {
        path.name[3:]: read_scores(path)["info"]
        for path in run.path.iterdir()
        if (path / "scores.json").is_file()
    }
    return infos, console.file.getvalue()  # type: ignore[attr-defined]


def test_the_rows_of_every_stage_below_are_searched_without_being_asked(
    roomy_model: Path, tmp_path: Path
) -> None:
    infos, said = evaluated("held-out", roomy_model, tmp_path)
    assert "contamination" not in infos["eval-base"]
    facts = infos["eval-dpo"]["contamination"]
    assert facts["stages"] == {"leaked": "held-out", "dpo": "pairs"}
    assert facts["rows"] == {"held-out": 12, "pairs": 12}
    count = {"items": 12, "touched": 12, "exact": 12, "trained_on": 12, "same_prompt": 0}
    assert facts["benchmarks"] == {"preferences": count}
    assert trained_on(infos["eval-dpo"]) == {"preferences": "trained on 12 of 12 of these items"}
    assert "dpo was trained on 12 of 12 of these items" in said


def test_rows_that_a_training_dropped_or_held_out_did_not_train(
    roomy_model: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("validation: 0.0", "validation: 0.25")
    recipe = recipe.replace("max_length: 4096", "max_length: 400")
    infos, _ = evaluated("held-out", roomy_model, tmp_path, recipe)
    (folder,) = (tmp_path / "runs" / "tiny").glob("*-leaked")
    stats = json.loads((folder / "stats.json").read_text())
    trained, validated = stats["rows_trained"], stats["rows_validation"]
    assert trained + validated + sum(stats["dropped"].values()) == 12
    assert min(trained, validated, 12 - trained - validated) > 0, stats
    facts = infos["eval-dpo"]["contamination"]
    assert facts["rows"]["held-out"] == trained
    count = facts["benchmarks"]["preferences"]
    assert (count["trained_on"], count["validated"]) == (trained, validated)
    assert trained_on(infos["eval-dpo"]) == {
        "preferences": f"trained on {trained} of 12 of these items and validated on {validated}"
        " more"
    }


def test_a_row_is_unread_where_every_training_left_it_out(tmp_path: Path) -> None:
    def stage(name: str, dropped: list[str], held_out: list[str]) -> TrainedStage:
        folder = tmp_path / name
        folder.mkdir()
        for file, ids in (("failures.jsonl", dropped), ("validation.jsonl", held_out)):
            (folder / file).write_text("".join(json.dumps({"id": i}) + "\n" for i in ids))
        return TrainedStage(name, "base", "pairs", folder)

    sft, dpo = stage("sft", ["a", "b"], ["c", "d"]), stage("dpo", ["a", "c"], ["d", "e"])
    assert Unread.of([sft], "pairs") == (frozenset("ab"), frozenset("cd"))
    # b and e are trained on by one of them, c is dropped by one and looked at by the other
    assert Unread.of([sft, dpo], "pairs") == (frozenset("a"), frozenset("cd"))
    # a stage of before has no such file: its rows count as trained on
    assert Unread.of([TrainedStage("old", "base", "pairs", tmp_path)], "pairs") == Unread()


def test_a_model_of_a_run_is_searched_outside_its_recipe_too(
    roomy_model: Path, tmp_path: Path
) -> None:
    evaluated("held-out", roomy_model, tmp_path)
    run = RunDir(tmp_path / "runs" / "tiny")
    rows = [row for row in run.items("held-out") if len(row.prompt) == 1]
    gold = [
        {"prompt": row.prompt[0].content, "chosen": row.chosen, "rejected": row.rejected}
        for row in rows
        if isinstance(row, Comparison)
    ]
    gold.append({"prompt": LONG, "chosen": "The Aare.", "rejected": "The Rhine."})
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    more = ["--reference", roomy_model, "--dtype", "float32", "--out", tmp_path / "out"]
    model = f"{run.path}:dpo"
    told = bezoar("eval", model, "--pairs", tmp_path / "gold.jsonl", *more)
    facts = read_scores(tmp_path / "out")["info"]["contamination"]
    count = facts["benchmarks"]["RewardBench"]
    assert (count["trained_on"], count["items"]) == (len(gold) - 1, len(gold))
    assert f"was trained on {len(gold) - 1} of {len(gold)} of these items" in " ".join(told.split())
    # a run whose rows are gone is scored all the same, and says what was not searched
    remove(run.output_dir("held-out"))
    told = bezoar("eval", model, "--pairs", tmp_path / "gold.jsonl", "--limit", "3", *more)
    assert "the rows of held-out are gone and were not searched" in " ".join(told.split())


def test_shipped_rows_are_no_false_alarm(roomy_model: Path, tmp_path: Path) -> None:
    infos, _ = evaluated("rows", roomy_model, tmp_path)
    facts = infos["eval-dpo"]["contamination"]
    assert facts["rows"] == {"rows": 12, "pairs": 12}
    assert facts["benchmarks"]["preferences"]["trained_on"] == 0
    assert not trained_on(infos["eval-dpo"])


def test_a_key_without_effect_is_refused() -> None:
    from bezoar.evals.contamination import Contamination
    from bezoar.evals.preferences import Preferences

    with pytest.raises(ValueError, match="always searched for"):
        Evaluate("m", preferences=Preferences("pairs"), contamination=Contamination())
