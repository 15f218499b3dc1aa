"""What recipes and defaults read from the Hub, through the real clients and a Hub on 127.0.0.1."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bezoar.data.locate import is_hub_id
from tests.helpers.hub import Hub, serving_hub
from tests.helpers.hub_datasets import DATASETS, add_datasets

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
    models = {"meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B-Instruct"}
    models |= {"openlm-research/open_llama_3b_v2", "OWNER/A-STRONG-INSTRUCT-MODEL", "owner/name"}
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


def test_a_repository_of_a_script_is_refused(hub: Hub) -> None:
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        first("ybisk/piqa", "validation")
