"""Evaluation sets in the layout that they have on the Hub; the questions were written for tests."""

from collections.abc import Callable
from typing import Any

from tests.helpers.hub_rows import FRUITS, Files, Row, Splits, copies, lines, script, tables

KINDS = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
NO_REFERENCE, HALF_REFERENCE = (123, 139), (103, 108, 110, 131, 133, 142, 143, 144)


def mt_bench_question(number: int) -> Row:
    """Question 81 to 160 in FastChat's form."""
    kind = KINDS[(number - 81) // 10]
    fruit = FRUITS[number % 10]
    turns = [f"Write what you know about number {number}, the {fruit}.", f"Now without {fruit}."]
    return {"question_id": number, "category": kind, "turns": turns}


def _mt_bench() -> Files:
    rows = []
    for number in range(81, 161):
        question = mt_bench_question(number)
        has_reference = number == 95 or 101 <= number <= 136 or 142 <= number <= 144
        reference: list[str] | None = [f"Note on {number}.", "A note."] if has_reference else []
        if number in NO_REFERENCE:
            reference = None
        elif number in HALF_REFERENCE:
            reference = [f"Note on {number}.", ""]
        rows.append(
            {
                "category": question["category"],
                "prompt": question["turns"],
                "reference": reference,
                "prompt_id": HASHES.get(number, 10_000_019 * number % 99_999_989),
            }
        )
    return tables({"default": {"train": rows}})


# the first, a coding and an extraction question as they are known
HASHES = {81: 44067482, 82: 46091167, 123: 34377376}


def _ai2_arc() -> Files:
    def row(number: int) -> Row:
        # some labels are digits, and a few questions have three or five choices
        labels = list(("1234", "ABCD", "ABC", "ABCDE")[number % 4])
        texts = [f"{fruit} {number}" for fruit in FRUITS[: len(labels)]]
        return {
            "id": f"Mercury_{number}",
            "question": f"Which of these grows in garden {number}?",
            "choices": {"text": texts, "label": labels},
            "answerKey": labels[number % len(labels)],
        }

    rows = [row(number) for number in range(8)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    return tables({"ARC-Easy": splits, "ARC-Challenge": splits})


def _openbookqa() -> Files:
    def row(number: int, facts: Row) -> Row:
        texts = [f"{fruit} {number}" for fruit in FRUITS[:4]]
        return {
            "id": f"7-{number}",
            "question_stem": f"What a child in garden {number} picks is",
            "choices": {"text": texts, "label": list("ABCD")},
            "answerKey": "ABCD"[number % 4],
            **facts,
        }

    more = {"fact1": "trees bear fruit", "humanScore": 1.0, "clarity": 2.0, "turkIdAnonymized": "x"}
    main = [row(number, {}) for number in range(8)]
    extra = [row(number, more) for number in range(8)]
    splits = ("train", "validation", "test")
    return tables({"main": dict.fromkeys(splits, main), "additional": dict.fromkeys(splits, extra)})


def _piqa_rows(has_label: bool = True) -> list[Row]:
    return [
        {
            "goal": f"How do I peel {fruit}?",
            "sol1": f"With a knife, {fruit} in hand.",
            "sol2": "With a song.",
            "label": number % 2 if has_label else -1,
        }
        for number, fruit in enumerate(FRUITS)
    ]


def _piqa_splits() -> Splits:
    return {"train": _piqa_rows(), "validation": _piqa_rows(), "test": _piqa_rows(False)}


def _winogrande() -> Files:
    rows = [
        {
            "sentence": f"The {fruit} did not fit the basket because the _ was too large.",
            "option1": fruit,
            "option2": "basket",
            "answer": str(number % 2 + 1),
        }
        for number, fruit in enumerate(FRUITS)
    ]
    hidden = [{**row, "answer": ""} for row in rows]
    splits = {"train": rows, "validation": rows, "test": hidden}
    sizes = ("xs", "s", "m", "l", "xl", "debiased")
    return tables({f"winogrande_{size}": splits for size in sizes})


def _boolq() -> Files:
    rows = [
        {
            "question": f"is {fruit} a fruit",
            "answer": number % 2 == 0,
            "passage": f"The {fruit} is the fruit of a tree.",
        }
        for number, fruit in enumerate(FRUITS)
    ]
    return tables({"default": {"train": rows, "validation": rows}})


def _hellaswag() -> Files:
    def row(number: int, split: str) -> Row:
        return {
            "ind": number,
            "activity_label": "Cooking",
            "ctx_a": f"A man washes {FRUITS[number]}.",
            "ctx_b": "he",
            "ctx": f"A man washes {FRUITS[number]}. he",
            "endings": [f"eats {what}." for what in ("it", "a stone", "the sea", "a lamp")],
            "source_id": f"x~{number}",
            "split": split,
            "split_type": "indomain",
            # the label of a test row is hidden
            "label": "" if split == "test" else str(number % 4),
        }

    splits = ("train", "validation", "test")
    return tables({"default": {s: [row(n, s) for n in range(8)] for s in splits}})


def _pairs_of_sentences(**more: Any) -> dict[str, list[Row]]:
    rows = [
        {
            "sentence1": f"He eats {fruit}.",
            "sentence2": "He eats.",
            **more,
            "idx": n,
            "label": n % 2,
        }
        for n, fruit in enumerate(FRUITS)
    ]
    return {"train": rows, "validation": rows, "test": [{**row, "label": -1} for row in rows]}


def _glue() -> Files:
    return tables({"rte": _pairs_of_sentences()})


def _super_glue() -> Files:
    spans = {"word": "eats", "start1": 3, "start2": 3, "end1": 7, "end2": 7}
    passages = [
        {"question": f"is {fruit} a fruit", "passage": f"{fruit}.", "idx": n, "label": n % 2}
        for n, fruit in enumerate(FRUITS)
    ]
    boolq = dict.fromkeys(("train", "validation", "test"), passages)
    return tables({"boolq": boolq, "wic": _pairs_of_sentences(**spans)})


def _gsm8k() -> Files:
    rows = [
        {
            "question": f"A child has {number} pears and gets 2. How many has it?",
            "answer": f"It has {number} + 2 = <<{number}+2={number + 2}>>{number + 2}.\n#### "
            f"{number + 1000:,}",
        }
        for number in range(8)
    ]
    both = dict.fromkeys(("train", "test"), rows)
    return tables({"main": both, "socratic": both})


def _truthful_qa() -> Files:
    rows = [
        {
            "question": f"What happens if you eat {fruit}?",
            "mc1_targets": {"choices": ["You are full.", "You fly."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["You are full.", "Nothing.", "Fly."], "labels": [1, 1, 0]},
        }
        for fruit in FRUITS
    ]
    return tables({"multiple_choice": {"validation": rows}})


def _agieval() -> Files:
    rows = [
        {
            "query": f"Q: Which is {fruit}? Answer Choices: (A){fruit} (B)none\nA: The answer is",
            "choices": [f"(A){fruit}", "(B)none"],
            "gold": [number % 2],  # a list, since of some questions two answers are right
        }
        for number, fruit in enumerate(FRUITS)
    ]
    return tables({"default": {"test": rows}})


def _ifeval() -> Files:
    rows = [
        {
            "key": 1000 + number,
            "prompt": f"Describe {fruit} in at least 30 words, without commas.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "at least", "num_words": 30}],
        }
        for number, fruit in enumerate(FRUITS)
    ]
    return {"ifeval_input_data.jsonl": lines(rows), "README.md": b"# IFEval\n"}


SUBSETS = ("alpacaeval-easy", "llmbar-natural", "refusals-dangerous", "math-prm", "hep-python")
SUBSETS += ("mt-bench-easy", "mt-bench-hard", "xstest-should-respond", "donotanswer")


def _reward_bench() -> Files:
    rows = [
        {
            "prompt": f"Name a fruit for {subset}, number {number}.",
            "chosen": f"The {FRUITS[number]}.",
            "chosen_model": "human",
            "rejected": "A stone.",
            "rejected_model": "gpt-none",
            "subset": subset,
            "id": 100 * place + number,
        }
        for place, subset in enumerate(SUBSETS)
        for number in range(3)
    ]
    return tables({"default": {"raw": rows, "filtered": rows}})


def _preference_test_sets() -> Files:
    names = ("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "shp", "summarize")
    names += ("pku_better", "pku_safer", "mtbench_human", "mtbench_gpt4")
    rows = [
        {
            "prompt": [{"content": f"Name a fruit, number {number}.", "role": "user"}],
            "chosen": f"The {FRUITS[number]}.",
            "rejected": "A stone.",
            # of anthropic_hhh: harmless, helpful, honest, other
            "subset": ("harmless", "other")[number % 2],
            "id": number,
        }
        for number in range(3)
    ]
    return tables({"default": dict.fromkeys(names, rows)})


def _reward_bench_2() -> Files:
    subsets = ("Factuality", "Focus", "Math", "Precise IF", "Safety", "Ties")
    rows = []
    for place, subset in enumerate(subsets):
        for number in range(2):
            right = 3 if subset == "Ties" else 1
            wrong = 4 if subset == "Ties" else 3
            rows.append(
                {
                    # in Ties a prompt with several right answers stands beside one with one
                    "id": f"{'tied' if number else 'ref'}:{place}"
                    if right > 1
                    else f"{place}{number}",
                    "prompt": f"Name a fruit ({subset} {number}).",
                    "chosen": [f"The {FRUITS[i]}." for i in range(right if number else 1)],
                    "rejected": [f"Stone {i}." for i in range(wrong)],
                    "num_correct": right if number else 1,
                    "num_incorrect": wrong,
                    "total_completions": wrong + (right if number else 1),
                    "models": ["human"] * (wrong + (right if number else 1)),
                    "subset": subset,
                    "additional_metadata": {"category": None, "correct": None, "index": number},
                }
            )
    return tables({"default": {"test": rows}})


def _llmbar() -> Files:
    rows = [
        {"input": f"Name {fruit}.", "output_1": f"{fruit}.", "output_2": "No.", "label": 1 + n % 2}
        for n, fruit in enumerate(FRUITS)
    ]
    hard = ("Neighbor", "GPTInst", "GPTOut", "Manual")
    names = ("Natural", *(f"Adversarial_{name}" for name in hard))
    return copies({"LLMBar": dict.fromkeys(names, rows), "CaseStudy": {"Base_9": rows}})


def _alpaca_eval() -> Files:
    rows = [
        {
            "instruction": f"Describe {fruit}.",
            "output": "Round.",
            "generator": "text_davinci_003",
            "dataset": ("helpful_base", "koala", "vicuna", "oasst", "selfinstruct")[n % 5],
        }
        for n, fruit in enumerate(FRUITS)
    ]
    return copies({"alpaca_eval": {"eval": rows}})


def _human_judgments() -> Files:
    def talk(answer: str, number: int) -> list[Row]:
        first, second = mt_bench_question(number)["turns"]
        roles = ("user", "assistant", "user", "assistant")
        texts = (first, answer, second, answer)
        return [{"content": text, "role": role} for text, role in zip(texts, roles, strict=True)]

    rows = [
        {
            "question_id": number,
            "model_a": "alpaca-13b",
            "model_b": "gpt-4",
            "winner": ("model_a", "model_b", "tie")[number % 3],
            "judge": f"expert_{number % 4}",
            "conversation_a": talk("A fruit.", number),
            "conversation_b": talk("A sweet fruit.", number),
            "turn": 1 + number % 2,
        }
        for number in range(81, 91)
    ]
    return tables({"default": {"human": rows, "gpt4_pair": rows}})


EXAMS = ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-math")
EXAMS += ("sat-en-without-passage",)
QUESTIONS: dict[str, Callable[[], Files]] = {
    "HuggingFaceH4/mt_bench_prompts": _mt_bench,
    "allenai/ai2_arc": _ai2_arc,
    "allenai/openbookqa": _openbookqa,
    "ybisk/piqa": lambda: script("piqa"),
    "baber/piqa": lambda: tables({"default": _piqa_splits()}),
    "allenai/winogrande": _winogrande,
    "google/boolq": _boolq,
    "Rowan/hellaswag": _hellaswag,
    "nyu-mll/glue": _glue,
    "aps/super_glue": _super_glue,
    "openai/gsm8k": _gsm8k,
    "truthfulqa/truthful_qa": _truthful_qa,
    "google/IFEval": _ifeval,
    **{f"hails/agieval-{exam}": _agieval for exam in EXAMS},
    "allenai/reward-bench": _reward_bench,
    "allenai/reward-bench-2": _reward_bench_2,
    "allenai/preference-test-sets": _preference_test_sets,
    "princeton-nlp/LLMBar": lambda: script("LLMBar"),
    "tatsu-lab/alpaca_eval": lambda: script("alpaca_eval"),
    "lmsys/mt_bench_human_judgments": _human_judgments,
}
QUESTION_COPIES: dict[str, Callable[[], Files]] = {
    "ybisk/piqa": lambda: copies({"plain_text": _piqa_splits()}),
    "princeton-nlp/LLMBar": _llmbar,
    "tatsu-lab/alpaca_eval": _alpaca_eval,
}
