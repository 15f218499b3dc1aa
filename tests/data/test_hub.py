"""What recipes and defaults read from the Hub, through the real clients and a Hub on 127.0.0.1."""

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.data.columns import Columns
from bezoar.data.dolly import Dolly
from bezoar.data.files import hub_file
from bezoar.data.flan import Flan
from bezoar.data.locate import is_hub_id
from bezoar.data.sharegpt import ShareGPT
from bezoar.errors import DataError
from bezoar.evals.harness_tasks import configs
from bezoar.evals.labelled_pairs import read_labelled_pairs
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import remarks
from bezoar.evals.revision import answered_chats
from bezoar.llm.types import Reply, Request
from tests.helpers.hub import Hub, serving_hub
from tests.helpers.hub_datasets import DATASETS, add_datasets
from tests.helpers.hub_questions import mt_bench_question
from tests.helpers.hub_rows import FLAN_SOURCES, WEATHER, flan_rows, tables

datasets = pytest.importorskip("datasets")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with serving_hub(folder / "hub") as server, pytest.MonkeyPatch.context() as patch:
        add_datasets(server)
        server.use(patch, folder / "home")
        yield server


def first(dataset: str, split: str, **options: str) -> dict[str, object]:
    stream = datasets.load_dataset(dataset, split=split, streaming=True, **options)
    return dict(next(iter(stream)))


def test_every_data_set_of_a_recipe_or_a_default_is_a_fixture() -> None:
    files = [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "src/bezoar/data").glob("*.py")]
    named = set()
    for file in files:
        text = file.read_text()
        words = re.findall(r"(?:path: |hub:|^    \(?\")([\w-]+/[\w.-]+)", text, re.MULTILINE)
        named |= {word for word in words if is_hub_id(word)}
    models = {f"meta-llama/Llama-{name}" for name in ("3.2-3B", "3.1-8B", "3.1-8B-Instruct")}
    models |= {"openlm-research/open_llama_3b_v2", "OWNER/A-STRONG-INSTRUCT-MODEL", "owner/name"}
    models |= {"EleutherAI/pythia-2.8b-deduped", "tiiuae/falcon-40b-instruct"}
    assert named - models <= DATASETS.keys()
    assert len(named & DATASETS.keys()) > 10


COLUMNS = {
    ("kowndinya23/flan2022", "niv2", ""): "inputs targets task_source task_name template_type",
    ("HuggingFaceH4/mt_bench_prompts", "train", ""): "category prompt reference prompt_id",
    ("allenai/winogrande", "train", "winogrande_xl"): "sentence option1 option2 answer",
    (
        "NousResearch/hermes-function-calling-v1",
        "train",
        "func_calling",
    ): "id conversations tools category subcategory task",
}


@pytest.mark.parametrize("place", COLUMNS, ids=lambda place: place[0])
def test_the_fixtures_have_the_layout_of_the_hub(hub: Hub, place: tuple[str, str, str]) -> None:
    name, split, subset = place
    options = {"name": subset} if subset else {}
    assert list(first(name, split, **options)) == COLUMNS[place].split()
    with pytest.raises(ValueError, match="Bad split"):
        first(name, "no-such-split", **options)


def test_hh_rlhf_is_four_folders_and_no_red_team(hub: Hub) -> None:
    rows = datasets.load_dataset("Anthropic/hh-rlhf", split="test", streaming=True)
    assert sum(1 for _ in rows) == 4 * 12


def test_a_readme_without_a_head_is_no_news(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    assert Dolly("databricks/databricks-dolly-15k", limit=2).load().rows
    assert not caplog.text


def test_a_repository_of_a_script_is_refused(hub: Hub) -> None:
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        first("ybisk/piqa", "validation")


def submixes(rows: list[Chat]) -> Counter[str]:
    return Counter(row.meta["submix"] for row in rows)


@pytest.mark.parametrize("recipe", ["openbezoar", "demo-real"])
def test_one_key_reads_the_four_submixes(hub: Hub, recipe: str) -> None:
    (line,) = (
        text
        for text in (ROOT / f"recipes/{recipe}.yaml").read_text().splitlines()
        if "flan2022" in text
    )
    fields = yaml.safe_load(line)["tasks"]
    fields.pop("kind")
    sifted = Flan(**fields).load()
    assert submixes(sifted.rows).keys() == {"flan2021", "t0", "cot", "niv2"}
    assert {drop.reason for drop in sifted.dropped} <= {"few-shot", "duplicate"}


def test_several_splits_are_joined_by_a_plus(hub: Hub) -> None:
    rows = Flan("kowndinya23/flan2022", split="cot+t0").load().rows
    assert submixes(rows) == {"cot": 32, "t0": 32}
    fault = "the Hub dataset cannot be opened .*Available splits: .*niv2"
    with pytest.raises(DataError, match=fault):
        Flan("kowndinya23/flan2022", split="train").load()


def test_a_large_collection_is_drawn_evenly_and_hardly_read(hub: Hub) -> None:
    # tasks lie one after the other, each in ten row groups
    noise = random.Random(0)
    splits = {split: flan_rows(split, num_tasks=12, rows_a_task=200) for split in FLAN_SOURCES}
    for row in (row for rows in splits.values() for row in rows):
        row["inputs"] += noise.randbytes(400).hex()
    hub.add("big/flan2022", tables({"default": splits}, 20), kind="datasets")
    whole = sum(p.stat().st_size for p in (hub.root / "datasets/big").rglob("*.parquet"))
    sifted = Flan("big/flan2022", split="all", per_submix=24).load()
    assert submixes(sifted.rows) == dict.fromkeys(("flan2021", "t0", "cot", "niv2"), 24)
    assert set(Counter(row.meta["task_name"] for row in sifted.rows).values()) == {2}
    assert hub.sent("big/flan2022", ".parquet") < whole / 3
    # a row group has a third of few-shot rows; those that were passed on the way to two rows count
    assert 12 * 4 <= len(sifted.dropped) <= 12 * 4 * 3
    # ids are those of a stream
    for row in sifted.rows:
        label, line = row.id.rsplit(":", 1)
        inputs = splits[label.removeprefix("big/flan2022/")][int(line) - 1]["inputs"]
        assert row.prompt[-1].content == inputs


MT_BENCH = "hub:HuggingFaceH4/mt_bench_prompts/train"


def test_mt_bench_has_fastchats_numbers_and_never_misses_a_reference(hub: Hub) -> None:
    section = MTBench("judge", MT_BENCH)
    assert [question.id for question in section.load()] == list(range(81, 161))
    judge = Scripted("Rating: [[5]]")
    outcome = section.measure(Scripted("an answer"), judge)
    assert outcome.scores[0].n == 160
    without = ["103 (turn 2)", "108 (turn 2)", "110 (turn 2)", "123"]
    assert outcome.info["mt_bench"]["without_reference"] == without
    assert any("4 (103 (turn 2), 108" in sentence for sentence in remarks(outcome.info))
    of_123 = [text for text in judge.texts if "number 123," in text]
    assert (len(of_123), any("solution" in text for text in of_123)) == (2, False)


def test_published_answers_belong_to_the_questions_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    rows = [
        {"question_id": number, "model_id": "m", "choices": [{"turns": [f"{number} a", "b"]}]}
        for number in range(81, 161)
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = answered_chats(MTBench("judge", MT_BENCH).load(), path)
    assert [chat.messages[1].content for chat in chats] == [f"{n} a" for n in range(81, 161)]
    assert chats[20].prompt[0].content == mt_bench_question(101)["turns"][0]


class Scripted:
    """Gives one answer to everything, and keeps what it was asked."""

    def __init__(self, reply: str) -> None:
        self.reply, self.texts = reply, list[str]()

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.texts += [request.messages[-1].content for request in requests]
        return [Reply(self.reply) for _ in requests]


@pytest.mark.parametrize(
    "subset",
    ["func_calling", "func_calling_singleturn", "glaive_func_calling", "json_mode_agentic"],
)
def test_hermes_calls_load_as_calls(hub: Hub, subset: str) -> None:
    ignore = ("schema",) if subset == "json_mode_agentic" else ()
    name = "NousResearch/hermes-function-calling-v1"
    sifted = ShareGPT(name, subset=subset, ignore=ignore).load()
    assert not sifted.dropped
    roles = [message.role for message in sifted.rows[0].messages]
    whole = ["system", "user", "assistant", "tool", "assistant"]
    assert roles == (whole[:3] if subset == "func_calling_singleturn" else whole)
    system, _, call, *result = sifted.rows[0].messages[:4]
    assert system == Message("system", "You call functions.", tools=(Tool(**WEATHER),))
    assert call == Message("assistant", "", (ToolCall("weather", {"town": "Ulm"}),))
    if result:
        assert result == [Message("tool", '{"name": "weather", "content": "rain"}')]


TASKS = {
    "hub:allenai/ai2_arc/ARC-Easy/test": "query choices gold",
    "hub:allenai/openbookqa/main/test": "query choices gold",
    "hub:baber/piqa/validation": "query choices gold",
    "hub:ybisk/piqa/validation": "query choices gold",
    "hub:google/boolq/validation": "query choices gold",
    "hub:allenai/winogrande/winogrande_xl/validation": "context_options continuation gold",
    "hub:openai/gsm8k/main/test": "context chain_of_thought answer",
    "hub:truthfulqa/truthful_qa/multiple_choice/validation": "question mc1_targets mc2_targets",
}


@pytest.mark.parametrize("ref", TASKS)
def test_test_sets_of_the_hub_are_tasks(hub: Hub, ref: str) -> None:
    """As evaluation reads them, and in the columns of a mirror."""
    pytest.importorskip("lm_eval")
    path = hub_file(ref)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(rows[0]) == TASKS[ref].split()
    assert configs(path, "task", "{query}", 32)


def test_questions_of_the_hub_read_as_in_published_files(hub: Hub) -> None:
    def row(ref: str, index: int) -> dict[str, Any]:
        return json.loads(hub_file(ref).read_text().splitlines()[index])  # type: ignore[no-any-return]

    assert row("hub:google/boolq/validation", 0) == {
        "query": "Passage: The apple is the fruit of a tree.\nQuestion: is apple a fruit?",
        "choices": ["no", "yes"],
        "gold": 1,
    }
    assert row("hub:baber/piqa/validation", 1)["query"] == "Question: How do I peel pear?\n"
    assert row("hub:baber/piqa/validation", 1)["gold"] == 1
    assert row("hub:allenai/winogrande/winogrande_xl/validation", 1) == {
        "context_options": [
            f"The pear did not fit the basket because the {what}" for what in ("pear", "basket")
        ],
        "continuation": "was too large.",
        "gold": 1,
    }
    assert row("hub:openai/gsm8k/main/test", 2)["answer"] == "1002"
    assert row("hub:allenai/openbookqa/main/test", 3)["gold"] == 3


@pytest.mark.parametrize(
    "ref", ["hub:baber/piqa/test", "hub:allenai/winogrande/winogrande_xl/test"]
)
def test_a_split_that_hides_its_answers_is_refused(hub: Hub, ref: str) -> None:
    with pytest.raises(
        DataError, match=r"row 1: the column .* no answer; name a split with answers"
    ):
        hub_file(ref)


def test_repositories_of_a_script_are_read_from_their_parquet_copy(hub: Hub) -> None:
    rows = Columns("tatsu-lab/alpaca_eval", subset="alpaca_eval", split="eval", kind="hub")
    found = [row for _, row in rows._data_files()[0].rows()]
    assert list(found[0]) == ["instruction", "output", "generator", "dataset"]
    pairs = read_labelled_pairs(hub_file("hub:princeton-nlp/LLMBar/LLMBar/Natural"))
    assert (len(pairs), pairs[0].meta["subset"]) == (10, "llmbar-natural")
    pairs = read_labelled_pairs(hub_file("hub:princeton-nlp/LLMBar/LLMBar/Adversarial_GPTInst"))
    assert pairs[0].meta["subset"] == "llmbar-adver-GPTInst"
    fault = "only a loading script, .*; the subsets of its Parquet copy are CaseStudy, LLMBar"
    with pytest.raises(DataError, match=f"the Hub dataset cannot be opened .*{fault}"):
        hub_file("hub:princeton-nlp/LLMBar/Natural")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (
            "abisee/cnn_dailymail",
            r"configs: \['1.0.0', '2.0.0', '3.0.0'\]\); name one of them as subset",
        ),
        (
            "Salesforce/xlam-function-calling-60k",
            "is a gated dataset .*; accept its terms .* HF_TOKEN",
        ),
        ("no/such-rows", "doesn't exist on the Hub or cannot be accessed.*; check its name"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(hub: Hub, path: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as error:
        Columns(path, kind="hub").load()
    assert "\n" not in str(error.value)
