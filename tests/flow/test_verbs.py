"""The verbs that evaluate outside a recipe: every kind of model, results on the disk, and one
sentence for a mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import TyperException

from bezoar import cli
from bezoar.errors import BezoarError
from tests.helpers.command import bezoar
from tests.helpers.server import answer, serving

ITEMS = [
    {"query": f"Question: {i}?\nAnswer:", "choices": ["yes", "certainly not"], "gold": i % 2}
    for i in range(6)
]
QUESTIONS = [
    {
        "question_id": i,
        "category": "writing",
        "turns": [f"{'lazy' if i < 4 else 'plain'} question {i}", "And?"],
    }
    for i in range(10)
]
BIASED = [
    {"pattern": "lazy", "reply": "[[A]]"},
    {"pattern": "Answer A.\\ngood", "reply": "[[A]]"},
    {"pattern": "Answer B.\\ngood", "reply": "[[B]]"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        s["name"]: s for s in reversed(json.loads((folder / "scores.json").read_text())["scores"])
    }


def answers(path: Path, text: str) -> Path:
    return write(
        path,
        [
            {"question_id": q["question_id"], "choices": [{"index": 0, "turns": [text, text]}]}
            for q in QUESTIONS
        ],
    )


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An adapter that changes something, with a score head beside it."""
    import torch

    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.model.stack import Stack

    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"), device="cpu")
    grown = stack.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
    with torch.no_grad():
        for name, weight in grown.items():
            if "lora_B" in name:
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    stack.save_trained(tmp_path)
    return tmp_path / "adapter"


def test_a_folder_and_an_adapter_are_scored_and_told_apart(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    file = write(tmp_path / "quiz.jsonl", ITEMS)
    told = bezoar(
        "eval", tiny_model, "--tasks", file, "--dtype", "float32", "--out", tmp_path / "one"
    )
    assert told.startswith("differences that can be shown (80 % power): quiz 0.81\n")
    found = scores(tmp_path / "one")["quiz/acc"]
    assert (found["n"], found["num_failed"]) == (6, 0)
    assert found["low"] < found["high"]
    assert json.loads((tmp_path / "one" / "scores.json").read_text())["template"] == "chatml"
    assert len((tmp_path / "one" / "items.jsonl").read_text().splitlines()) == 12
    before = (tmp_path / "one" / "scores.json").stat().st_mtime_ns
    assert (
        bezoar("eval", tiny_model, "--tasks", file, "--dtype", "float32", "--out", tmp_path / "one")
        == told.partition("\n")[2]
    )
    assert (tmp_path / "one" / "scores.json").stat().st_mtime_ns == before
    bezoar("eval", adapter, "--tasks", file, "--dtype", "float32", "--out", tmp_path / "two")
    assert scores(tmp_path / "two").keys() == scores(tmp_path / "one").keys()
    assert (tmp_path / "two" / "items.jsonl").read_text() != ""
    tested = bezoar("compare", tmp_path / "one", tmp_path / "two")
    assert "too few items to tell (n = 6; at least 7 are needed)" in tested
    ranked = bezoar("leaderboard", tmp_path / "one", tmp_path / "two", "--benchmark", "quiz/acc")
    assert ranked.count("not distinguishable") == 1
    bezoar(
        "eval",
        tiny_model,
        "--tasks",
        file,
        "--chat-template",
        "--dtype",
        "float32",
        "--out",
        tmp_path / "three",
    )
    with pytest.raises(BezoarError, match="differ in items, template"):
        bezoar("compare", tmp_path / "one", tmp_path / "three")
    assert "they differ in items, template" in bezoar(
        "leaderboard", tmp_path / "one", tmp_path / "three", "--benchmark", "quiz/acc"
    )
    with pytest.raises(BezoarError, match=r"no score is named 'quiz/bcc'; there are quiz/acc"):
        bezoar("leaderboard", tmp_path / "one", "--benchmark", "quiz/bcc")


def test_a_model_of_a_run_and_its_adapters_folder_are_one(tiny_model: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "rows.jsonl",
        [{"prompt": f"Ask {i}", "response": f"Reply {i}"} for i in range(8)],
    )
    train = {
        "kind": "train",
        "rows": "rows",
        "objective": {"kind": "sft"},
        "batch_size": 4,
        "adapter": {"r": 2},
    }
    stages = {
        "rows": {"kind": "jsonl", "path": "rows.jsonl"},
        "one": {**train, "model": "tiny"},
        "two": {**train, "model": "one"},
    }
    recipe = {
        "name": "toy",
        "models": {"tiny": {"path": str(tiny_model), "dtype": "float32"}},
        "stages": stages,
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe))
    run = tmp_path / "runs" / "toy"
    bezoar("run", tmp_path / "toy.yaml", "--out", run)
    gold = write(
        tmp_path / "gold.jsonl",
        [
            {"prompt": f"Ask {i}", "chosen": f"Reply {i}", "rejected": "I will not."}
            for i in range(6)
        ],
    )
    margins = []
    for name, out in ((f"{run}:two", "a"), (run / "03-two" / "adapter", "b")):
        bezoar("eval", name, "--pairs", gold, "--reference", f"{run}:tiny", "--out", tmp_path / out)
        margins.append(
            [
                json.loads(line)["margin"]
                for line in (tmp_path / out / "items.jsonl").read_text().splitlines()
            ]
        )
    assert margins[0] == margins[1]
    assert any(margins[0])
    with pytest.raises(BezoarError, match="name one of its models as"):
        bezoar("eval", run, "--pairs", gold)
    with pytest.raises(
        BezoarError, match="no finished model is named 'too'; the models are tiny, one, two"
    ):
        bezoar("eval", f"{run}:too", "--pairs", gold)


def test_a_reward_model_judges_pairs_and_answers(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    gold = write(
        tmp_path / "gold.jsonl",
        [{"prompt": f"p{i}", "chosen": "yes!", "rejected": "no"} for i in range(6)],
    )
    bezoar("eval", adapter, "--pairs", gold, "--dtype", "float32", "--out", tmp_path / "rm")
    found = scores(tmp_path / "rm")
    assert (
        json.loads((tmp_path / "rm" / "scores.json").read_text())["info"]["reward_bench"]["by"]
        == "reward"
    )
    assert found["judge/accuracy"]["value"] == found["RewardBench/gold"]["value"]
    assert found["judge/first position"]["value"] == pytest.approx(0.5)
    bezoar(
        "eval",
        adapter,
        "--pairs",
        gold,
        "--reference",
        tiny_model,
        "--dtype",
        "float32",
        "--out",
        tmp_path / "dpo",
    )
    assert (
        json.loads((tmp_path / "dpo" / "scores.json").read_text())["info"]["reward_bench"]["by"]
        == "implicit reward"
    )
    questions, one, two = (
        write(tmp_path / "q.jsonl", QUESTIONS),
        answers(tmp_path / "a.jsonl", "yes!"),
        answers(tmp_path / "b.jsonl", "no"),
    )
    bezoar(
        "compare",
        one,
        two,
        "--judge",
        adapter,
        "--questions",
        questions,
        "--dtype",
        "float32",
        "--out",
        tmp_path / "duel",
    )
    duel = scores(tmp_path / "duel")
    assert duel["win rate/orders disagree"]["value"] == 0.0
    assert duel["win rate"]["n"] == 10


def test_a_planted_position_bias_is_measured_and_moves_no_win_rate(tmp_path: Path) -> None:
    questions, script = (
        write(tmp_path / "q.jsonl", QUESTIONS),
        write(tmp_path / "judge.jsonl", BIASED),
    )
    good, poor = answers(tmp_path / "good.jsonl", "good"), answers(tmp_path / "poor.jsonl", "poor")
    for one, two, rate in ((good, poor, 0.8), (poor, good, 0.2)):
        out = tmp_path / one.stem
        told = bezoar(
            "compare", one, two, "--judge", script, "--questions", questions, "--out", out
        )
        assert "win rate/first position" in told
        found = scores(out)
        # 6 of 10 are decided on merit, 4 by the order: half each
        assert found["win rate"]["value"] == pytest.approx(rate)
        assert found["win rate/first position"]["value"] == pytest.approx((8 + 6) / 20)
        assert found["win rate/orders disagree"]["value"] == pytest.approx(0.4)
    with pytest.raises(BezoarError, match="holds the scores of"):
        bezoar(
            "compare",
            poor,
            good,
            "--judge",
            script,
            "--questions",
            questions,
            "--out",
            tmp_path / "good",
        )


def test_an_endpoint_is_asked_once_and_judged_anew_by_another_wording(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.jsonl", QUESTIONS)
    quiz, written = (
        write(tmp_path / "quiz.jsonl", ITEMS),
        write(
            tmp_path / "sums.jsonl",
            [{"context": f"{i} + {i} =", "answer": str(2 * i)} for i in range(4)],
        ),
    )

    def behave(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return answer("The sum is 4." if "=" in body["messages"][-1]["content"] else "words")

    with serving(behave) as server:
        for grade in (3, 8):
            judge = write(
                tmp_path / "judge.jsonl", [{"pattern": ".", "reply": f"Rating: [[{grade}]]"}]
            )
            bezoar(
                "eval",
                f"toy@{server.url}",
                "--mt-bench",
                "--judge",
                judge,
                "--questions",
                questions,
                "--out",
                tmp_path / "out",
            )
            assert scores(tmp_path / "out")["mt_bench"]["value"] == grade
            assert len(server.bodies) == 20  # two turns of ten questions, once
        pytest.importorskip("lm_eval")
        bezoar("eval", f"toy@{server.url}", "--tasks", written, "--out", tmp_path / "sums")
        assert scores(tmp_path / "sums")["sums/exact_match"]["value"] == 0.25
        assert (
            json.loads((tmp_path / "sums" / "scores.json").read_text())["info"]["lm_eval"][
                "template"
            ]
            == "the endpoint's"
        )
        with pytest.raises(
            BezoarError, match="needs the log-probability of given texts; use a local model"
        ):
            bezoar("eval", f"toy@{server.url}", "--tasks", quiz, "--out", tmp_path / "quiz")


def test_alpaca_eval_files(tmp_path: Path) -> None:
    def outputs(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(
            json.dumps(
                [{"instruction": f"do {i}", "output": text, "generator": name} for i in range(3)]
            )
        )
        return path

    script = write(tmp_path / "judge.jsonl", BIASED)
    bezoar(
        "compare",
        outputs("a.json", "good"),
        outputs("b.json", "poor"),
        "--judge",
        script,
        "--out",
        tmp_path / "out",
    )
    assert scores(tmp_path / "out")["win rate"]["value"] == 1.0
    rows = [
        {
            "instruction": f"do {i}",
            "output_1": "a",
            "output_2": "b",
            "generator_2": "m",
            "preference": p,
        }
        for i, p in enumerate([1.0, 2.0, 2.0, None])
    ]
    told = bezoar("eval", write(tmp_path / "annotations.jsonl", rows))
    assert "1 (25 %)" in told  # failed
    assert "0.667" in told


def test_published_judgements_are_scored_again(tmp_path: Path) -> None:
    rows = [
        {"question_id": i, "model": "m", "turn": 1, "judgment": f"[[{i}]]", "score": i}
        for i in (4, 5)
    ]
    assert "4.50" in bezoar("eval", write(tmp_path / "single.jsonl", rows))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "a.jsonl"], "nothing is asked for; add --tasks"),
        (["eval", "a.jsonl", "--mt-bench"], "name one with --judge"),
        (["compare", "a.jsonl", "a.jsonl"], "name one with --judge"),
        (["eval", "./nowhere", "--tasks", "x"], "no such folder"),
        (["eval", "x@http:///", "--tasks", "x"], "is no http address"),
        (["leaderboard", "."], "no finished evaluation in it"),
        (["eval", "a.jsonl", "--template", "alpaca"], "one of chatml, hermes, openbezoar, hub"),
        (["eval", "a.yaml"], "did you mean endpoint"),
        (["eval", "z.jsonl", "--mt-bench", "--judge", "j.jsonl"], "answers none of the questions"),
        (
            ["eval", "a.jsonl", "--mt-bench", "--judge", "j.jsonl", "--verdict", "loud"],
            "mt_bench.verdict",
        ),
        (["eval", "a.jsonl", "--tasks", "gone.jsonl"], "no such file"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    answers(tmp_path / "a.jsonl", "x")
    write(tmp_path / "z.jsonl", [{"question_id": 990, "choices": [{"turns": ["x"]}]}])
    write(tmp_path / "j.jsonl", BIASED)
    (tmp_path / "a.yaml").write_text("kind: endpoit\nurl: http://localhost:1/v1\nmodel: m\n")
    here = [
        str(tmp_path / word) if word.endswith((".jsonl", ".yaml")) or word == "." else word
        for word in words
    ]
    with pytest.raises(BezoarError, match=message) as caught:
        bezoar(*here, *([] if words[0] == "leaderboard" else ["--out", tmp_path / "out"]))
    assert "\n" not in str(caught.value)


def test_failures_are_loud_each_time_and_a_finished_evaluation_is_no_model(tmp_path: Path) -> None:
    questions, script = (
        write(tmp_path / "q.jsonl", QUESTIONS),
        write(tmp_path / "judge.jsonl", [{"pattern": "lazy", "reply": "well"}, *BIASED[1:]]),
    )
    words = (
        "compare",
        answers(tmp_path / "good.jsonl", "good"),
        answers(tmp_path / "poor.jsonl", "poor"),
        "--judge",
        script,
        "--questions",
        questions,
    )
    for _ in range(2):
        told = bezoar(*words, "--out", tmp_path / "out")
        assert told.count("warning: win rate: 4 of 10 items (40%) gave no value") == 1
        assert "4 (40 %)" in told
    with pytest.raises(BezoarError, match="compare it with another one"):
        bezoar("compare", tmp_path / "out", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "words",
    [
        "eval x --limit 0",
        "eval x --limit -3",
        "eval x --limit nan",
        "eval x --limit 1e3",
        f"eval x --limit {10**20}",
        "eval x --shots -1",
        "eval x --max-tokens 0",
        "compare x y --turn 0",
        "compare x y --limit 0",
        "rows x y -n 0",
        "rows x y -n -1",
        "chat x -t nan",
        "chat x -t -1",
        "chat x -t inf",
    ],
)
def test_a_number_without_meaning_is_one_sentence(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TyperException) as caught:
        cli.app(words.split(), prog_name="bezoar", standalone_mode=False)
    assert cli._code_of(caught.value) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bezoar: {words.split()[0]}: Invalid value for '-")
    assert said.count("\n") == 1
