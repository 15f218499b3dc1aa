import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from bezoar.data.licences import LicenceTerms, joint_licence, model_terms, seed_terms
from bezoar.report import finish, markdown
from bezoar.report.cards import write_cards
from bezoar.report.lineage import base_model, models_below, public_name
from tests.helpers.fake_run import HOSTILE, edit_json, load, stages

Build = Callable[..., Path]


def head_of(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    loaded: dict[str, Any] = yaml.safe_load(text[4:].partition("\n---\n")[0])
    return loaded


@pytest.fixture(scope="module")
def cards(whole: Path) -> dict[str, Path]:
    return {path.parent.name[3:]: path for path in write_cards(*load(whole))}


def test_every_made_set_and_every_trained_model_has_a_card(cards: dict[str, Path]) -> None:
    assert set(cards) == {
        "lamini",
        "lamini_ok",
        "orca",
        "orca_ok",
        "evol",
        "evol_ok",
        "sft_lamini",
        "sft_orca",
        "sft_evol",
        "hh_sft",
        "dpo",
    }


def test_a_dataset_card_has_the_hub_s_head(cards: dict[str, Path]) -> None:
    head = head_of(cards["lamini_ok"])
    assert (head["license"], head["language"], head["size_categories"]) == (
        "apache-2.0",
        ["en"],
        ["n<1K"],
    )
    assert head["configs"] == [
        {"config_name": "default", "data_files": "rows.parquet"},
        {"config_name": "rejected", "data_files": "rejected.parquet"},
    ]
    info = head["dataset_info"][0]
    assert info["splits"][0]["num_examples"] == 66
    assert [f["name"] for f in info["features"]] == ["id", "messages", "meta"]
    assert info["features"][1]["list"][0] == {"name": "role", "dtype": "string"}


def test_a_dataset_card_tells_how_the_rows_were_made(cards: dict[str, Path]) -> None:
    text = cards["evol_ok"].read_text()
    assert "teacher smollm2-135m-instruct, judge judge-large" in text
    assert "| reject | 22 | 25 % |" in text
    assert "| evol | evol\\_instruct | 40 | 88 | 9 same as before, 5 refusal |" in text
    assert text.count("[assistant]") == 3
    assert "A kept row cost" in text


def test_models_that_name_each_other_as_their_base_end_in_an_unknown_one(fresh: Build) -> None:
    run, _ = load(fresh())
    sft, dpo = run.stage("sft_lamini"), run.stage("dpo")
    assert sft
    assert dpo
    sft.inputs["model"] = "dpo"
    dpo.inputs["model"] = "sft_lamini"
    assert models_below(run, dpo) == ["sft_lamini", "dpo"]
    assert base_model(run, dpo) == "unknown"


def test_a_model_card_says_what_the_model_was_trained_on(fresh: Build) -> None:
    run_dir = fresh()
    scores = run_dir / "19-eval_dpo" / "scores.json"
    before = head_of(write_cards(*load(run_dir))[-1])["model-index"][0]["results"]
    counts = {"preferences": {"items": 40, "trained_on": 20}, "mt_bench": {"items": 24}}
    edit_json(scores, info={"contamination": {"benchmarks": counts}})
    card = write_cards(*load(run_dir))[-1]
    assert "**preferences: the model was trained on 20 of 40 of these items.**" in card.read_text()
    kept = head_of(card)["model-index"][0]["results"]
    names = {"preferences", "arc_easy", "mt_bench"}
    assert {result["dataset"]["name"] for result in before} == names
    assert {result["dataset"]["name"] for result in kept} == names - {"preferences"}


def test_a_model_card_has_results_with_intervals(cards: dict[str, Path]) -> None:
    head = head_of(cards["dpo"])
    assert (head["base_model"], head["library_name"], head["base_model_relation"]) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "peft",
        "adapter",
    )
    assert head["tags"] == ["bezoar", "dpo", "lora"]
    metric = head["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == 0.7
    assert "95 % interval 0.556 to 0.844, n 40" in metric["name"]
    text = cards["dpo"].read_text()
    assert "<|im_start|>user\nExplain" in text
    assert "AutoPeftModelForCausalLM.from_pretrained('adapter')" in text
    assert "weights open in `float32`" in text
    assert "whole stack of 5 trained stages as one LoRA" in text
    assert "NF4" in text
    beside = (cards["dpo"].parent / "adapter" / "README.md").read_text()
    assert beside == text.replace("'adapter'", "'.'")


def test_the_card_of_an_older_run_says_what_its_adapter_lacks(fresh: Build) -> None:
    run_dir = fresh()
    edit_json(run_dir / "15-dpo" / "key.json", parts={})
    text = write_cards(*load(run_dir))[-1].read_text()
    assert "from_pretrained" not in text
    assert "bezoar export RUN_DIRECTORY -m dpo --adapter --out FOLDER" in text


def test_a_model_that_was_not_scored_has_no_results(cards: dict[str, Path]) -> None:
    assert "model-index" not in head_of(cards["sft_lamini"])
    assert "has not been scored" in cards["sft_lamini"].read_text()


def test_the_hub_s_own_reader_takes_the_cards(cards: dict[str, Path]) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    model = hub.ModelCard.load(cards["dpo"])
    assert len(model.data.eval_results) == 6
    assert hub.DatasetCard.load(cards["lamini"]).data.pretty_name == "demo: lamini"


@pytest.mark.real
def test_datasets_opens_a_set_by_its_card(cards: dict[str, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    loaded = datasets.load_dataset(
        str(cards["lamini_ok"].parent), "rejected", cache_dir=str(tmp_path)
    )
    assert loaded["train"].num_rows == 30


def test_hostile_text_breaks_neither_head_nor_fences(fresh: Build) -> None:
    run_dir = fresh(hostile=True)
    for path in write_cards(*load(run_dir)):
        head = head_of(path)
        assert head["license"] == "apache-2.0" if "pairs" not in path.read_text() else "mit"
        body = path.read_text(encoding="utf-8").partition("\n---\n")[2]
        outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
        assert "<script" not in outside
        assert "<img" not in outside


def test_unknown_terms_are_called_unknown(fresh: Build) -> None:
    run_dir = fresh()
    table = stages()
    table["seeds"]["path"] = "/home/me/secret/rows.jsonl"
    edit_json(run_dir / "resolved.json", stages=table)
    path = next(p for p in write_cards(*load(run_dir)) if p.parent.name.endswith("-lamini"))
    assert head_of(path)["license"] == "unknown"
    assert "language" not in head_of(path)
    assert "unknown. The licence is not known" in path.read_text()
    assert "/home/me" not in path.read_text()


def test_licences() -> None:
    assert seed_terms("bezoar:instructions.jsonl").licence == "apache-2.0"
    assert seed_terms("databricks/databricks-dolly-15k").licence == "cc-by-sa-3.0"
    assert seed_terms("/data/flan/cot_data_sample").licence == "apache-2.0"
    assert [
        seed_terms(name).licence for name in ("mine.jsonl", "/home/flanders/rows.jsonl", "")
    ] == ["unknown"] * 3
    assert model_terms("gpt-4o-mini").licence == "other"
    assert model_terms("something-7b").licence == "unknown"
    assert [
        joint_licence(LicenceTerms(name) for name in names)
        for names in (
            [],
            ["apache-2.0", "unknown"],
            ["mit", "apache-2.0"],
            ["apache-2.0", "cc-by-sa-3.0"],
            ["cc-by-sa-3.0", "cc-by-sa-4.0"],
            ["mit", "other"],
        )
    ] == ["unknown", "unknown", "apache-2.0", "cc-by-sa-3.0", "other", "other"]


def test_names_of_this_machine_are_kept_out() -> None:
    assert [public_name(p) for p in ("/data/models/tiny", "./tiny", "org/tiny", "tiny")] == [
        "tiny",
        "tiny",
        "org/tiny",
        "tiny",
    ]


def test_markdown_keeps_foreign_text_in_place() -> None:
    assert markdown.words("a|b\n<i> [x](y) `z`") == "a\\|b &lt;i&gt; \\[x\\](y) \\`z\\`"
    assert markdown.fence("```\nx").startswith("````text\n")
    head = markdown.front_matter({"name": HOSTILE, "n": 3})
    assert yaml.safe_load(head[4:].partition("\n---\n")[0]) == {
        "name": HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd"),
        "n": 3,
    }


def test_finish_writes_where_something_changed(fresh: Build) -> None:
    run_dir = fresh()
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    finish(run_dir, console)
    report = run_dir / "report.html"
    assert report.exists()
    assert (run_dir / "15-dpo" / "README.md").exists()
    before = report.stat().st_mtime_ns
    finish(run_dir, console, changed=False)
    assert report.stat().st_mtime_ns == before
    assert "report.html" in console.export_text()
