"""Each source's rules, a few written rows at a time: what becomes of a row, what is dropped and
counted, what is an error."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Comparison, Message, Tool, ToolCall
from bezoar.data import HHRLHF, SOURCES, Columns, Dolly, Flan, HelpSteer2, ShareGPT, UltraFeedback
from bezoar.data.source import Source
from bezoar.errors import DataError
from bezoar.parquet import write_parquet


def written(folder: Path, *rows: dict[str, Any] | str, name: str = "rows.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def said(*turns: str) -> tuple[Message, ...]:
    return tuple(
        Message("assistant" if index % 2 else "user", turn) for index, turn in enumerate(turns)
    )


def reasons(source: Source[Any], folder: Path) -> dict[str, int]:
    return dict(Counter(item.reason for item in source.below(folder).load().dropped))


def test_dolly_joins_the_context_to_the_instruction(tmp_path: Path) -> None:
    row = {
        "instruction": " Sum up. ",
        "context": "Some\u2028text.",
        "response": "Short.\n",
        "category": "summarization",
    }
    path = written(
        tmp_path, row, {**row, "context": None}, {**row, "context": ""}, {**row, "response": " "}
    )
    sifted = Dolly(path).below(tmp_path).load()
    assert [chat.messages for chat in sifted.rows] == [
        said("Sum up.\n\nSome\u2028text.", "Short."),
        said("Sum up.", "Short."),
    ]
    assert sifted.rows[0].id == "rows.jsonl:1"
    assert sifted.rows[0].meta == {
        "category": "summarization",
        "has_context": True,
        "source": "rows.jsonl",
        "line": 1,
    }
    assert [(item.id, item.reason) for item in sifted.dropped] == [
        ("rows.jsonl:3", "duplicate"),
        ("rows.jsonl:4", "empty answer"),
    ]


def hh(*turns: str) -> str:
    return "".join(
        f"\n\n{'Assistant' if index % 2 else 'Human'}: {turn}" for index, turn in enumerate(turns)
    )


def test_hh_rlhf_splits_before_the_last_answer(tmp_path: Path) -> None:
    row = {
        "chosen": hh("Hi ", "Yo\u2028\n", "Why?", "Because. Human: no"),
        "rejected": hh("Hi", "Yo\u2028", "Why?", "\n No.  "),
    }
    (pair,) = HHRLHF(written(tmp_path, row)).below(tmp_path).load().rows
    assert pair.prompt == said("Hi", "Yo", "Why?")
    assert (pair.chosen, pair.rejected) == ("Because. Human: no", "No.")
    assert pair.meta == {"turns": 2, "source": "rows.jsonl", "line": 1}


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (hh("Hi", ""), hh("Hi", "No"), "empty answer"),
        (hh("Hi", "Yes"), hh("Hi", " "), "empty answer"),
        (hh("Hi", "Same"), hh("Hi", "Same "), "equal answers"),
        (hh("Hi", "Yes") + "\n\nAssistant: more", hh("Hi", "No"), "two turns in a row"),
        (hh("Hi", "Yes"), hh("Hi", "No") + "\n\nAssistant: more", "two turns in a row"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", hh("a", "d"), "two turns in a row"),
        (hh("Hi", "Yes", "So?"), hh("Hi", "No"), "no answer"),
        (hh("Hi", "Yes"), hh("Ho", "No"), "prompts differ"),
        (hh("Hi", "x", "a", "Yes"), hh("Hi", "No"), "prompts differ"),
        (hh("", "Yes"), hh("", "No"), "empty turn"),
    ],
)
def test_hh_rlhf_drops_and_counts(chosen: str, rejected: str, reason: str, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"chosen": hh("ok", "a"), "rejected": hh("ok", "b")},
        {"chosen": chosen, "rejected": rejected},
    )
    assert reasons(HHRLHF(path), tmp_path) == {reason: 1}


def test_hh_rlhf_refuses_what_is_no_transcript(tmp_path: Path) -> None:
    path = written(tmp_path, {"chosen": hh("a", "b"), "rejected": "Just text."})
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: the column 'rejected' does not begin with '\\n\\nHuman:'"
    ):
        HHRLHF(path).below(tmp_path).load()


FLAN = {
    "inputs": "2+2?",
    "targets": "4",
    "submix": "cot",
    "task_name": "sums",
    "template_type": "zs_noopt",
}


def test_flan_rows_of_every_published_shape(tmp_path: Path) -> None:
    written(
        tmp_path,
        {**FLAN, "rationale": "Two and two."},
        {**FLAN, "inputs": "3?", "submix": None, "task_source": "NIv2"},
        name="a/seeds.jsonl",
    )
    written(tmp_path, "Is it?\\nOptions:\\n- yes\\n- no\tyes\tIt is.", name="a/creak_train.tsv")
    written(
        tmp_path,
        {"template": "imdb_x", "prompt": "Good?\n", "completion": " yes<|endoftext|>"},
        name="a/t0.jsonl",
    )
    task = {
        "Definition": ["Do it."],
        "Categories": ["QA"],
        "Instances": [{"input": "now", "output": ["done", "did"]}],
    }
    (tmp_path / "a" / "task1_x.json").write_text(json.dumps(task, indent=1))
    rows = {
        chat.meta["task_name"] + chat.meta["submix"]: chat
        for chat in Flan("a").below(tmp_path).load().rows
    }
    assert set(rows) == {"sumscot", "sumsniv2", "creak_traincot", "imdb_xt0", "task1_xniv2"}
    assert rows["sumscot"].meta["rationale"] == "Two and two."
    assert rows["creak_traincot"].messages == said("Is it?\nOptions:\n- yes\n- no", "yes")
    assert (
        rows["creak_traincot"].meta["template_type"],
        rows["creak_traincot"].meta["rationale"],
    ) == ("zs_opt", "It is.")
    assert rows["imdb_xt0"].messages == said("Good?", "yes")
    assert rows["task1_xniv2"].messages == said("Do it.\n\nnow", "done")
    assert rows["task1_xniv2"].id == "a/task1_x.json:1"
    assert rows["task1_xniv2"].meta["answers"] == ["done", "did"]
    stand_in = {
        c.meta["task_name"]: c.meta
        for c in Flan("a", flan2021_from_p3=True).below(tmp_path).load().rows
    }
    assert stand_in["imdb_x"]["submix"] == "flan2021"
    assert "stand_in" in stand_in["imdb_x"]
    assert "stand_in" not in stand_in["sums"]


def test_flan_drops_and_counts(tmp_path: Path) -> None:
    test_row = {"topic": "task9", "instruction": "Do", "input": "it", "output": ["done"]}
    path = written(
        tmp_path,
        FLAN,
        {**FLAN, "template_type": "fs_opt"},
        {**FLAN, "submix": "dialog_submix_original"},
        {**FLAN, "targets": ""},
        {**FLAN, "inputs": ""},
        test_row,
    )
    expected = {
        "few-shot": 1,
        "other sub-mix": 1,
        "empty answer": 1,
        "empty prompt": 1,
        "evaluation only": 1,
    }
    assert reasons(Flan(path), tmp_path) == expected


def test_flan_takes_as_many_rows_of_each_submix(tmp_path: Path) -> None:
    rows = [
        {**FLAN, "inputs": f"{n}?", "submix": submix}
        for n in range(9)
        for submix in ("cot", "cot", "t0", "niv2", "flan2021")
    ]
    for seed in (None, 1):
        source = Flan(written(tmp_path, *rows), per_submix=3, shuffle_seed=seed)
        found = Counter(chat.meta["submix"] for chat in source.below(tmp_path).load().rows)
        assert found == {"cot": 3, "t0": 3, "niv2": 3, "flan2021": 3}
        assert source.below(tmp_path).count() == 12


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "a.jsonl",
            '{"inputs": "x"}',
            "a.jsonl:1: the row has no column 'submix' or 'task_source'; it has inputs",
        ),
        ("a.jsonl", '{"submix": "cot", "inputs": "x"}', "no column 'targets'"),
        ("a.tsv", "a\tb", "a.tsv:1: a chain-of-thought line has three"),
        ("a.jsonl", '{"0": "q", "1": 7, "2": "r"}', "a.jsonl:1: the column '1' is a int, not text"),
        ("a.json", '{"Instances": [{"input": "x", "output": ["y"]}]}', "no column 'Definition'"),
        (
            "a.json",
            '{"Definition": "d", "Instances": [{"input": "x"}]}',
            "a.json: instance 1: the row has no column 'output'",
        ),
        (
            "a.json",
            '{"Definition": "d", "Instances": ["x"]}',
            "a.json: instance 1: the instance is a JSON str",
        ),
    ],
)
def test_flan_names_what_is_wrong(name: str, content: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        Flan(written(tmp_path, content, name=name)).below(tmp_path).load()
    assert what in str(error.value)


def test_ultrafeedback_in_both_shapes(tmp_path: Path) -> None:
    flat = {
        "prompt": "Q",
        "chosen": "A",
        "rejected": "B",
        "metadata": {"score_chosen": 8.5, "score_rejected": 7.0},
    }
    turns = [
        [{"role": "user", "content": "R"}, {"role": "assistant", "content": answer}]
        for answer in ("A", "B")
    ]
    listed = {
        "prompt": "R",
        "chosen": turns[0],
        "rejected": turns[1],
        "score_chosen": 5.0,
        "score_rejected": 5.0,
    }
    path = written(tmp_path, flat, listed, {**flat, "rejected": "A"}, {**flat, "chosen": None})
    sifted = UltraFeedback(path).below(tmp_path).load()
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in sifted.rows] == [
        (said("Q"), "A", "B"),
        (said("R"), "A", "B"),
    ]
    assert sifted.rows[0].meta["score_chosen"] == 8.5
    assert reasons(UltraFeedback(path), tmp_path) == {"equal answers": 1, "empty answer": 1}
    assert reasons(UltraFeedback(path, min_margin=1), tmp_path)["small margin"] == 1


def test_helpsteer2_reads_turns_and_attributes(tmp_path: Path) -> None:
    scores = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}
    path = written(
        tmp_path,
        {
            "prompt": "Hi\n<extra_id_1>Assistant\nYo\n<extra_id_1>User\nWhy?",
            "response": "So.",
            **scores,
        },
        {"prompt": "Hi\n<extra_id_1>Assistant\nYo", "response": "So.", **scores},
    )
    sifted = HelpSteer2(path).below(tmp_path).load()
    assert [chat.messages for chat in sifted.rows] == [said("Hi", "Yo", "Why?", "So.")]
    assert sifted.rows[0].meta["attributes"] == scores
    assert [item.reason for item in sifted.dropped] == ["two turns in a row"]
    path = written(tmp_path, {"prompt": "Hi", "response": "Yo", **scores, "verbosity": 5})
    with pytest.raises(DataError, match=r"rows.jsonl:1: the column 'verbosity' is 5"):
        HelpSteer2(path).below(tmp_path).load()


def turns(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": what} for who, what in pairs]}


def test_sharegpt_reads_calls_and_tools(tmp_path: Path) -> None:
    call = '{"name": "add", "arguments": {"a": 1}}'
    row = turns(
        ("human", "1+1?"),
        ("function_call", call),
        ("function_call", call),
        ("observation", "2"),
        ("gpt", "It is 2."),
    )
    (chat,) = (
        ShareGPT(written(tmp_path, {**row, "system": "Count.", "tools": '[{"name": "add"}]'}))
        .below(tmp_path)
        .load()
        .rows
    )
    add = ToolCall("add", {"a": 1})
    calls = Message("assistant", "", (add, add))
    last = Message("assistant", "It is 2.")
    assert chat.messages == (
        Message("system", "Count.", tools=(Tool("add"),)),
        Message("user", "1+1?"),
        calls,
        Message("tool", "2"),
        last,
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (turns(("human", "a"), ("gpt", "b"), ("gpt", "c")), "two turns in a row"),
        (turns(("human", "a"), ("human", "b"), ("gpt", "c")), "two turns in a row"),
        (turns(("gpt", "b"), ("human", "a")), "does not start with the user"),
        (turns(("human", "a")), "no answer"),
        (turns(), "no answer"),
        (turns(("human", "a"), ("gpt", "")), "empty answer"),
        (turns(("human", ""), ("gpt", "b")), "empty turn"),
        (turns(("human", "a"), ("observation", "b"), ("gpt", "c")), "result without a call"),
        (turns(("human", "x"), ("function_call", "add(1)")), "bad JSON in a call"),
        (turns(("human", "x"), ("function_call", '{"name": "f"}')), "bad call"),
    ],
)
def test_sharegpt_drops_and_counts(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reasons(ShareGPT(written(tmp_path, row)), tmp_path) == {reason: 1}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"conversations": "Hi"}, "not valid JSON"),
        ({"conversations": ["Hi"]}, "not a list of objects with 'from' and 'value'"),
        (
            {"conversations": [{"role": "user", "content": "x"}]},
            "no column 'from'; it has role, content",
        ),
        (turns(("bob", "x")), "the speaker 'bob' is unknown"),
        (
            {**turns(("human", "x"), ("gpt", "y")), "tools": {"name": "f"}},
            "the column 'tools' is a dict, not a list",
        ),
    ],
)
def test_sharegpt_names_what_is_wrong(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        ShareGPT(written(tmp_path, row)).below(tmp_path).load()
    assert what in str(error.value)
    assert "rows.jsonl:1: " in str(error.value)


def test_tables_are_read_by_their_columns(tmp_path: Path) -> None:
    listed = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert Columns(written(tmp_path, {"messages": listed})).below(tmp_path).load().rows[
        0
    ].messages == said("Q", "A")
    named = (
        Columns(written(tmp_path, {"q": "Q", "a": "A", "meta": {"x": 1}}), prompt="q", response="a")
        .below(tmp_path)
        .load()
        .rows[0]
    )
    assert (named.messages, named.meta["x"]) == (said("Q", "A"), 1)
    pair = (
        Columns(written(tmp_path, {"prompt": "Q", "chosen": "A", "rejected": "B"}))
        .below(tmp_path)
        .load()
        .rows[0]
    )
    assert (pair.prompt, pair.chosen, pair.rejected) == (said("Q"), "A", "B")
    bad = [listed[0], {"role": "assistant", "content": "B"}]
    whole = (
        Columns(written(tmp_path, {"chosen": listed, "rejected": bad}))
        .below(tmp_path)
        .load()
        .rows[0]
    )
    assert (whole.prompt, whole.chosen, whole.rejected) == (said("Q"), "A", "B")
    other = [{"role": "user", "content": "other"}, bad[1]]
    assert reasons(Columns(written(tmp_path, {"chosen": listed, "rejected": other})), tmp_path) == {
        "prompts differ": 1
    }


def test_the_rows_of_a_stage_can_be_read_back(tmp_path: Path) -> None:
    chats = [Chat("s:1", (*said("Q", "A"), *said("R", "B")), {"submix": "cot"})]
    pairs = [Comparison("p:1", said("Q", "A", "R"), "x", "y", {"turns": 2})]
    for items in (chats, pairs):
        write_parquet(tmp_path / "rows.parquet", [item.to_row() for item in items])
        (item,) = Columns("rows.parquet", kind="parquet").below(tmp_path).load().rows
        assert type(item) is type(items[0])
        assert {**items[0].meta, "source": "rows.parquet", "line": 1} == item.meta
        assert item.to_row() | {"id": "", "meta": ""} == items[0].to_row() | {"id": "", "meta": ""}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "Q", "answer": "A"}, "it has question, answer"),
        ({"prompt": "Q", "answer": "A"}, "no column 'response'; it has prompt, answer"),
        ({"prompt": "Q", "chosen": "A"}, "no column 'rejected'"),
        ({"prompt": 5, "response": "A"}, "the column 'prompt' is a int, not text"),
        ({"messages": {"role": "user"}}, "not a list of objects"),
    ],
)
def test_a_table_without_the_columns_names_those_it_has(
    row: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        Columns(written(tmp_path, row)).below(tmp_path).load()
    assert what in str(error.value)
    assert "rows.jsonl:1: " in str(error.value)


def test_a_table_holds_chats_or_comparisons(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"prompt": "Q", "response": "A"}, {"prompt": "Q", "chosen": "A", "rejected": "B"}
    )
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: this row and rows.jsonl:1 are not both chats"
    ):
        Columns(path).below(tmp_path).load()


# a CSV file is no JSON Lines
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "csv"])
def test_every_source_drops_nulls_or_names_the_missing_columns(kind: str, tmp_path: Path) -> None:
    source = (
        SOURCES[kind]("rows.jsonl") if kind not in ("parquet", "hub") else Columns("rows.jsonl")
    )
    written(tmp_path, {"unrelated": "x"})
    with pytest.raises(DataError, match=r"rows.jsonl:1: the row has no.*; it has unrelated\."):
        source.below(tmp_path).load()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Dolly(""), "path is empty"),
        (lambda: Dolly("x.jsonl", split="train"), "split has no effect with the path"),
        (lambda: Dolly("./a/b", subset="x"), "subset has no effect with the path"),
        (lambda: Flan("x.jsonl", limit=3, per_submix=3), "per_submix"),
        (lambda: Columns("x.jsonl", kind="hub"), "kind hub does not fit"),
        (lambda: Columns("a/b"), "kind jsonl does not fit"),
        (lambda: Columns("x.jsonl", kind="parquet"), "kind parquet does not fit"),
    ],
)
def test_settings_without_an_effect_are_refused(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make()
