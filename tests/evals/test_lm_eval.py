"""The bridge to LM-Eval-Harness against the harness's own HFLM on the same files."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bezoar.chat.templates import ChatML
from bezoar.errors import DataError
from bezoar.evals.harness_models import StackLM
from bezoar.evals.harness_tasks import configs
from bezoar.evals.lm_eval import LmEval, Task
from tests.evals.conftest import QUESTIONS


@pytest.fixture(scope="module")
def hflm(model_dir: Path) -> HFLM:
    return HFLM(pretrained=str(model_dir), device="cpu", dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def ours(stack: Any) -> StackLM:
    return StackLM(stack, ChatML())


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)
    ]


PAIRS = [(q["query"], f" {choice}") for q in QUESTIONS for choice in q["choices"]] + [
    ("", "no context at all"),
    ("", "</s>ends first"),
    ("<s>starts itself", " and goes on"),
    ("trailing space ", "here"),
    ("a" * 200, " long context"),
    ("the", "re is a merge across the cut"),
]


@pytest.mark.parametrize("max_tokens", [1, 4096])
def test_loglikelihoods_are_those_of_hflm(hflm: HFLM, stack: Any, max_tokens: int) -> None:
    requests = asked("loglikelihood", *PAIRS)
    theirs = hflm.loglikelihood(requests, disable_tqdm=True)
    model = StackLM(stack, ChatML())
    model.max_tokens = max_tokens
    ours = model.loglikelihood(requests)
    assert [g for _, g in ours] == [g for _, g in theirs]
    assert [x for x, _ in ours] == pytest.approx([x for x, _ in theirs], abs=2e-4)


def test_greedy_continuations_are_recognised(hflm: HFLM, ours: StackLM, stack: Any) -> None:
    import torch

    ids = stack.tokenizer.inner("Once", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = int(HFLM_logits(hflm, ids).argmax())
    word = stack.tokenizer.inner.decode([best])
    requests = asked("loglikelihood", ("Once", word), ("Once", "zq"))
    assert [g for _, g in ours.loglikelihood(requests)] == [
        g for _, g in hflm.loglikelihood(requests, disable_tqdm=True)
    ]


def HFLM_logits(hflm: HFLM, ids: Any) -> Any:  # noqa: N802
    return hflm.model(ids).logits[0, -1]


def test_rolling_loglikelihoods_are_those_of_hflm(hflm: HFLM, ours: StackLM) -> None:
    requests = asked(
        "loglikelihood_rolling", ("a short text",), ("a longer text that does not fit. " * 20,)
    )
    theirs = hflm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(theirs, abs=2e-3)


def test_a_continuation_that_cannot_be_scored_is_an_error(ours: StackLM) -> None:
    with pytest.raises(DataError, match="no token of its own"):
        ours.loglikelihood(asked("loglikelihood", ("context", "")))
    with pytest.raises(DataError, match="more than 160 tokens"):
        ours.loglikelihood(asked("loglikelihood", ("context", "x" * 200)))


def test_generated_texts_are_those_of_hflm(hflm: HFLM, ours: StackLM) -> None:
    prompts = ["Once upon", "Question: 2 + 2?\nAnswer:", "the", "<s>it begins"]
    for options in (
        {"until": ["\n"], "max_gen_toks": 24},
        {"until": ["e", "a t"], "max_gen_toks": 40},
        {"until": [], "max_gen_toks": 12},
    ):
        requests = asked("generate_until", *((p, {**options, "do_sample": False}) for p in prompts))
        assert ours.generate_until(requests) == [
            hflm.generate_until([r], disable_tqdm=True)[0] for r in requests
        ]


def test_a_long_prompt_keeps_its_end(hflm: HFLM, ours: StackLM) -> None:
    requests = asked("generate_until", ("word " * 100, {"until": [], "max_gen_toks": 8}))
    before = ours.num_cut
    assert ours.generate_until(requests) == hflm.generate_until(requests, disable_tqdm=True)
    assert ours.num_cut == before + 1


def test_a_written_answer_is_scored_by_its_last_number(tmp_path: Path, stack: Any) -> None:
    class Parrot(StackLM):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            return ["3 + 4 = 7, so it is $1,007.", "It is 12.", "I do not know"]

    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(
            json.dumps({"context": f"q{i}", "answer": a}) + "\n"
            for i, a in enumerate(["1007", "13", "5"])
        )
    )
    outcome = LmEval((Task(path=str(path), template="Question: {query}\nAnswer:"),)).run_lm(
        Parrot(stack, ChatML())
    )
    assert [i["value"] for i in outcome.items] == [1.0, 0.0, 0.0]
    assert outcome.scores[0].name == "sums/exact_match"


@pytest.fixture
def choices_file(tmp_path: Path) -> Path:
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    return path


YAML = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{path}"}}, cache_dir: "{cache}"}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: gold
num_fewshot: {shots}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.parametrize("shots", [0, 2])
def test_a_local_task_gives_what_the_harness_gives_by_hand(
    choices_file: Path, hflm: HFLM, stack: Any, shots: int
) -> None:
    tasks = choices_file.parent / "tasks"
    tasks.mkdir()
    (tasks / "choices.yaml").write_text(
        YAML.format(path=choices_file, shots=shots, cache=choices_file.parent / "cache")
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    theirs = simple_evaluate(hflm, tasks=["choices"], task_manager=manager, bootstrap_iters=0)
    outcome = LmEval((Task(path=str(choices_file), shots=shots),)).measure(stack, ChatML())
    for score in outcome.scores:
        metric = score.name.split("/")[1]
        assert score.value == pytest.approx(theirs["results"]["choices"][f"{metric},none"])
        mine = [i["value"] for i in outcome.items if i["benchmark"] == score.name]
        assert mine == [s[metric] for s in theirs["samples"]["choices"]]
    assert [s.name for s in outcome.scores] == ["choices/acc", "choices/acc_norm"]
    assert outcome.scores[0].n == len(QUESTIONS)
    assert outcome.info["lm_eval"]["tasks"]["choices"]["shots"] == shots


def test_the_chat_template_is_the_recipes_and_is_recorded(
    choices_file: Path, stack: Any, ours: StackLM
) -> None:
    text = ours.apply_chat_template([{"role": "user", "content": "Hi <|im_end|>"}])
    assert text == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    prefilled = ours.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}], False
    )
    assert prefilled.endswith("<|im_start|>assistant\nSo")
    plain = LmEval((Task(path=str(choices_file)),)).measure(stack, ChatML())
    chat = LmEval((Task(path=str(choices_file)),), chat_template=True).measure(stack, ChatML())
    assert chat.info["lm_eval"]["template"] == "chatml"
    assert "template" not in plain.info["lm_eval"]
    assert plain.info["lm_eval"]["num_cut_prompts"] == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "rows.jsonl:1: gold is 2"),
        ({"query": "q", "choices": ["a"], "gold": 0}, "rows.jsonl:1: there are not two choices"),
        ({"text": "q"}, "the rows have the columns text"),
        (
            {"question": "q", "mc1_targets": {"a": 0}, "mc2_targets": {"a": 0}},
            "no true answer in mc1_targets",
        ),
        (
            {"question": "q", "mc1_targets": {"a": 1}, "mc2_targets": {"a": 1, "b": 0}},
            "not two answers in mc1_targets",
        ),
        (
            {"question": "q", "mc1_targets": ["a", "b"], "mc2_targets": {"a": 1, "b": 0}},
            "rows.jsonl:1: the column 'mc1_targets' is not an object",
        ),
        (
            {"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": None},
            "rows.jsonl:1: the column 'mc2_targets' is not an object",
        ),
        (
            {"question": "q", "mc1_targets": {"a": "yes", "b": 0}, "mc2_targets": {"a": 1, "b": 0}},
            "with the labels 0 and 1",
        ),
        (
            {
                "question": "q",
                "mc1_targets": {"choices": ["a", "b"], "labels": [1]},
                "mc2_targets": {"a": 1, "b": 0},
            },
            "one without a label",
        ),
        (
            {"question": None, "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0}},
            "the column 'question' is 'None'",
        ),
        (
            {"query": "q", "choices": ["a", None], "gold": 0},
            "rows.jsonl:1: the column 'choices' is 'None'",
        ),
        ({"query": "q", "choices": "ab", "gold": 0}, "rows.jsonl:1: there are not two choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "rows.jsonl:1: gold is True"),
        ({"query": "q", "choices": ["a", "b"], "gold": None}, "rows.jsonl:1: gold is None"),
        ({"query": ["q"], "choices": ["a", "b"], "gold": 0}, "rows.jsonl:1: the column 'query'"),
        (
            {"context_options": ["a", {}], "continuation": "c", "gold": 0},
            "the column 'context_options' is '{}'",
        ),
        ({"context": "c", "answer": None}, "the column 'answer' is 'None'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        configs(path, "rows", "{query}", 16)


def test_truthful_and_two_context_files(tmp_path: Path, stack: Any, hflm: HFLM) -> None:
    truthful = tmp_path / "truthful.json"
    targets = {"mc1_targets": {"yes": 1, "no": 0}, "mc2_targets": {"yes": 1, "aye": 1, "no": 0}}
    truthful.write_text(json.dumps([{"question": "Is it?", **targets}]))
    options = tmp_path / "options.jsonl"
    options.write_text(
        json.dumps(
            {
                "context_options": ["The cat, so the cat", "The cat, so the dog"],
                "continuation": "ran.",
                "gold": 0,
            }
        )
        + "\n"
    )
    section = LmEval((Task(path=str(truthful), template="Q: {query}\nA:"), Task(path=str(options))))
    ours, theirs = section.measure(stack, ChatML()), section.run_lm(hflm)
    assert [s.name for s in ours.scores] == ["truthful mc1/acc", "truthful mc2/acc", "options/acc"]
    assert [s.value for s in ours.scores] == pytest.approx(
        [s.value for s in theirs.scores], abs=1e-5
    )
    first, second, third = (
        x
        for x, _ in StackLM(stack, ChatML()).loglikelihood(
            asked(
                "loglikelihood",
                ("Q: Is it?\nA:", " yes"),
                ("Q: Is it?\nA:", " aye"),
                ("Q: Is it?\nA:", " no"),
            )
        )
    )
    import math

    mass = (math.exp(first) + math.exp(second)) / (
        math.exp(first) + math.exp(second) + math.exp(third)
    )
    assert ours.scores[1].value == pytest.approx(mass, abs=1e-6)


@pytest.mark.parametrize("chat", [False, True])
def test_an_asked_model_runs_written_tasks_through_the_pool(
    tmp_path: Path, choices_file: Path, chat: bool
) -> None:
    from bezoar.errors import EndpointError, RecipeError
    from bezoar.evals.harness_models import AskLM
    from bezoar.llm.types import Reply, Request

    seen: list[Request] = []

    def ask(requests: Any) -> list[Reply]:
        seen.extend(requests)
        return [
            Reply(f"It is {7 if r.messages[-1].content.endswith('3 + 4?') else 0}. Question: more")
            for r in requests
        ]

    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(json.dumps({"context": q, "answer": "7"}) + "\n" for q in ("3 + 4?", "2 + 5?"))
    )
    section = LmEval((Task(path=str(path), shots=1),), chat_template=chat)
    outcome = section.run_lm(AskLM(ask))
    assert [i["value"] for i in outcome.items] == [1.0, 0.0]
    assert [m.role for m in seen[0].messages] == (
        ["user", "assistant", "user"] if chat else ["user"]
    )
    with pytest.raises(EndpointError, match="2 of 2 answers failed"):
        section.run_lm(
            AskLM(lambda requests: [Reply(finish="error", error="down") for _ in requests])
        )
    with pytest.raises(RecipeError, match="log-probability"):
        LmEval((Task(path=str(choices_file)),)).run_lm(AskLM(ask))
