"""A recipe for what a person has: found by looking at the files, it loads, plans and runs as it
stands."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import RecipeError
from bezoar.flow.recipe import load_recipe
from tests.helpers.command import bezoar
from tests.helpers.rows import sentence

CHATS = [
    {"messages": [{"role": "user", "content": f"{sentence(n, 4)} {n}?"},
                  {"role": "assistant", "content": "" if n == 3 else sentence(n, 3)}]}
    for n in range(40)
]  # fmt: skip
PAIRS = [
    {"question": f"{sentence(n, 4)} {n}?", "better": sentence(n, 4), "worse": "no", "note": "a b"}
    for n in range(60)
]
ALPACA = [
    {"instruction": f"Say {n}.", "input": "x" * (n % 2), "output": sentence(n, 3)}
    for n in range(40)
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def sheet(name: str, rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    table = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
    Path(name).write_text("\n".join(table))
    return name


def stage(recipe: str, name: str) -> Any:
    return load_recipe(Path(recipe)).written[name]


def test_pairs_and_a_model_run_to_the_end(tiny_model: Path) -> None:
    shutil.copytree(tiny_model, "model")
    told = bezoar("init", sheet("pairs.csv", PAIRS, ";"), "model")
    assert "60 pairs, 15 of them held out" in told
    assert "columns question, better, worse, note; text left out: note" in told
    assert "template chatml (the tokenizer has its marks)" in told
    pairs = stage("recipe.yaml", "pairs")
    assert (pairs.kind, pairs.delimiter, pairs.ignore) == ("csv", ";", ("note",))
    assert (pairs.prompt, pairs.chosen, pairs.rejected) == ("question", "better", "worse")
    assert "eval-dpo" in bezoar("plan", "recipe.yaml")
    told = bezoar("run", "recipe.yaml")
    assert "dpo: " in told
    assert "After DPO the model prefers the better answer" in told


def test_chats_alpaca_and_a_model_of_the_hub(tiny_model: Path) -> None:
    shutil.copytree(tiny_model, "model")
    Path("model/chat_template.jinja").write_text("{{ messages }}")
    told = bezoar("init", lines("chats.jsonl", CHATS), "model", "--out", "a.yaml")
    assert "39 chats" in told
    assert "1 dropped as empty answer" in told
    assert load_recipe(Path("a.yaml")).template.kind == "hub"
    assert {"chats", "chats.held_out", "sft", "eval-sft"} <= load_recipe(
        Path("a.yaml")
    ).stages.keys()
    assert stage("a.yaml", "eval-sft").overlap.rows == "chats.held_out"
    Path("alpaca.json").write_text(json.dumps(ALPACA))
    told = bezoar("init", "alpaca.json", "--model", "owner/name", "--out", "b.yaml")
    assert "read by kind alpaca, columns instruction, input, output" in told
    assert stage("b.yaml", "chats").kind == "alpaca"
    assert load_recipe(Path("b.yaml")).models["base"].path == "owner/name"


def test_a_server_makes_rows(tiny_model: Path) -> None:
    server = "my-model@http://127.0.0.1:9/v1"
    told = bezoar("init", server)
    assert "my-model at http://127.0.0.1:9/v1 is the teacher and the judge" in told
    recipe = load_recipe(Path("recipe.yaml"))
    assert list(recipe.stages) == ["seeds", "made", "made-kept"]
    assert recipe.budget_usd is None
    text = Path("recipe.yaml").read_text()
    assert "    # prices: {input_usd_per_million: 1" in text
    # a comment that is made a line is a right one
    Path("priced.yaml").write_text(
        text.replace("# prices", "prices")
        .replace("# key_env", "key_env")
        .replace("# budget_usd", "budget_usd")
    )
    priced = load_recipe(Path("priced.yaml"))
    teacher: Any = priced.backends["teacher"]
    assert priced.budget_usd == 1
    assert (teacher.key_env, teacher.prices.output_usd_per_million) == ("MY_KEY", 4)
    assert "made-kept" in bezoar("plan", "recipe.yaml")
    shutil.copytree(tiny_model, "model")
    chats = lines("chats.jsonl", CHATS)
    bezoar("init", chats, server, "model", "--key-env", "K", "--out", "all.yaml")
    recipe = load_recipe(Path("all.yaml"))
    assert stage("all.yaml", "sft").rows == "made-kept"
    assert stage("all.yaml", "made").seeds == "chats"
    assert recipe.backends["teacher"].key_env == "K"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "rows", "kind", "keys"),
    [
        ("a.jsonl", [{"question": f"q {n}", "answer": "a b"} for n in range(40)], "jsonl",
         {"prompt": "question", "response": "answer"}),
        ("a.jsonl", [{"input": f"q {n}", "output": "a b"} for n in range(40)], "jsonl",
         {"prompt": "input", "response": "output"}),
        ("a.jsonl", [{"conversations": [{"from": "human", "value": f"q {n}"},
                                        {"from": "gpt", "value": "a"}]} for n in range(40)],
         "sharegpt", {}),
        ("a.jsonl", [{"instruction": f"q {n}", "context": "", "response": "a"} for n in range(40)],
         "dolly", {}),
        ("a.jsonl", [{"chosen": f"\n\nHuman: q {n}\n\nAssistant: a",
                      "rejected": f"\n\nHuman: q {n}\n\nAssistant: b"} for n in range(40)],
         "hh_rlhf", {}),
        ("a.jsonl", [{"prompt": f"q {n}", "chosen": "a", "rejected": "b", "score_chosen": 2,
                      "score_rejected": 1} for n in range(40)], "ultrafeedback", {}),
        ("a.tsv", [{"prompt": f"q {n}", "response": "a b"} for n in range(40)], "csv", {}),
        ("a.csv", [{"instruction": f"q {n}", "input": "x", "output": "a"} for n in range(40)],
         "alpaca", {}),
    ],
)  # fmt: skip
def test_what_a_file_is_is_seen_from_its_rows(
    name: str, rows: list[dict[str, Any]], kind: str, keys: dict[str, str]
) -> None:
    if name.endswith("jsonl"):
        lines(name, rows)
    else:
        sheet(name, rows, "\t" if name.endswith("tsv") else ",")
    bezoar("init", name)
    recipe = load_recipe(Path("recipe.yaml"))
    source = next(s for n, s in recipe.written.items() if n in ("chats", "pairs"))
    assert source.kind == kind
    assert {key: getattr(source, key) for key in keys} == keys


def test_several_files_of_a_kind_train_one_after_another() -> None:
    bezoar("init", lines("chats.jsonl", CHATS), lines("faq.json", ALPACA), sheet("p.csv", PAIRS))
    recipe = load_recipe(Path("recipe.yaml"))
    chain = [(name, s.model, s.rows) for name, s in recipe.written.items() if s.kind == "train"]  # type: ignore[attr-defined]
    assert chain == [
        ("sft-chats", "base", "chats"),
        ("sft", "sft-chats", "chats-2"),
        ("dpo", "sft", "pairs"),
    ]
    assert stage("recipe.yaml", "chats-2").kind == "alpaca"
    evaluations = [s.model for s in recipe.written.values() if s.kind == "evaluate"]  # type: ignore[attr-defined]
    assert evaluations == ["base", "sft-chats", "sft", "dpo"]


def test_another_encoding_a_folder_and_packed_files() -> None:
    Path("a.csv").write_bytes(b"prompt;response\n" + b"caf\xe9?;oui\n" * 2)
    bezoar("init", "a.csv", "--out", "a.yaml")
    found = stage("a.yaml", "chats")
    assert (found.encoding, found.delimiter, found.held_out) == ("cp1252", ";", 0)
    Path("rows").mkdir()
    for n, part in enumerate((CHATS[:20], CHATS[20:])):
        packed = gzip.compress("".join(json.dumps(row) + "\n" for row in part).encode())
        Path(f"rows/{n}.jsonl.gz").write_bytes(packed)
    assert "39 chats" in bezoar("init", "rows", "--out", "sub/b.yaml")
    assert load_recipe(Path("sub/b.yaml")).stages["chats"].files()[0].name == "0.jsonl.gz"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["nothing.jsonl"], "nothing.jsonl: no such file or folder; name files of rows"),
        (["odd.jsonl"], "no kind of source reads these rows: as jsonl: .*it has foo"),
        (["empty.jsonl"], "empty.jsonl"),
        (["chats.jsonl", "./chats.jsonl"], "chats.jsonl: the file is named twice"),
        (["chats.jsonl", "again.jsonl", "m@http://localhost:1/v1"], "again.jsonl: beside a server"),
        (["http://localhost:1/v1"], "one server is written NAME@URL"),
        (["chats.jsonl", "--key-env", "K"], "--key-env has no effect without a server"),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_is_written(words: list[str], fault: str) -> None:
    lines("chats.jsonl", CHATS)
    lines("again.jsonl", CHATS)
    lines("odd.jsonl", [{"foo": "bar baz"}])
    Path("empty.jsonl").write_text("")
    with pytest.raises(Exception, match=fault):
        bezoar("init", *words)
    assert not Path("recipe.yaml").exists()


def test_a_recipe_that_is_there_stays_and_nothing_named_explains() -> None:
    Path("recipe.yaml").write_text("mine")
    lines("chats.jsonl", CHATS)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: the file is there already; name another"):
        bezoar("init", "chats.jsonl")
    assert Path("recipe.yaml").read_text() == "mine"
    assert "bezoar init chats.jsonl pairs.csv" in bezoar("init")
