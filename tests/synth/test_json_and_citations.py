"""Rows in JSON mode and answers that cite documents, drawn and checked."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bezoar.chat.citations import (
    Citation,
    Document,
    cited_line,
    documents_in,
    documents_prompt,
    is_quoted,
    read_citations,
)
from bezoar.chat.json_mode import json_prompt, schema_of
from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.llm.local import StackBackend
from bezoar.llm.types import Reply, Request
from bezoar.model.spec import ModelSpec, Sampling
from bezoar.reading import read_jsonl
from bezoar.synth.cited_answers import CitedAnswers, citation_fault, read_topics
from bezoar.synth.json_mode import JSONMode, json_fault
from bezoar.synth.tools.catalogue import read_schemas
from tests.helpers.asked import Teacher, chat, last

SEEDS = Path(__file__).parents[2] / "src" / "bezoar" / "seeds"
DOCUMENTS = (Document("Oslo", "It lies by the sea. It is old."), Document("Graz", "It is green."))


def test_json_rows_hold_one_valid_object_with_what_was_said() -> None:
    assert len(read_schemas(SEEDS / "schemas.jsonl")) >= 25
    found = JSONMode(300).write(2)
    assert len(found.rows) == 300
    assert {item.reason for item in found.dropped} <= {"double"}
    assert len({row.meta["schema"] for row in found.rows}) >= 25
    for row in found.rows:
        schema = schema_of(row.messages)
        assert schema is not None
        value = json.loads(row.answer)
        Draft202012Validator({**schema, "additionalProperties": False}).validate(value)
        text = row.prompt[-1].content
        for key, item in value.items():
            if isinstance(item, str) and "HH:MM" not in str(schema["properties"][key]):
                dated = "YYYY" in schema["properties"][key]["description"]
                assert dated or item.lower() in text.lower()
    assert JSONMode(20).write(1) == JSONMode(20).write(1) != JSONMode(20).write(2)


def test_a_wrong_answer_in_json_mode_is_told() -> None:
    table = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    def fault(answer: str) -> str:
        turns = (json_prompt(table), Message("user", "3"), Message("assistant", answer))
        return json_fault(Chat("c", turns))

    assert fault('{"n": 3}') == ""
    assert fault("n is 3") == fault("[3]") == fault('{"n": NaN}') == "no JSON object"
    assert fault('{"n": "3"}') == fault("{}") == fault('{"n": 3, "m": 1}')
    assert fault("{}") == "does not fit the schema"
    assert schema_of((Message("system", "<schema>\nno\n</schema>"),)) is None
    assert schema_of((Message("user", "hi"),)) is None
    odd = {"const": "</schema>\n{schema}"}
    assert schema_of((json_prompt(odd),)) == odd


def test_documents_and_citations_are_read_back() -> None:
    prompt = documents_prompt("Where is Oslo?", DOCUMENTS)
    assert prompt[-1].content == (
        "Where is Oslo?\n\nCONTEXT:\n\n"
        "Document:0\nTitle: Oslo\nText: It lies by the sea. It is old.\n\n"
        "Document:1\nTitle: Graz\nText: It is green."
    )
    assert documents_in(prompt) == list(DOCUMENTS)
    assert documents_in(()) == documents_in((Message("user", "hi"),)) == []
    answer = "It <co:0>lies  by the Sea.</co> <co: 0, 1>It is</co: 0,1>\nCited Documents: 0, 1"
    first, second = read_citations(answer)
    assert (first, second) == (Citation((0,), "lies  by the Sea."), Citation((0, 1), "It is"))
    assert cited_line(answer) == (0, 1)
    assert cited_line("Cited Documents: none") == ()
    assert cited_line("It is old.") is None
    assert is_quoted(first, DOCUMENTS)
    assert is_quoted(second, DOCUMENTS)
    assert not is_quoted(Citation((1,), "lies by the sea"), DOCUMENTS)
    assert not is_quoted(Citation((2,), "It is"), DOCUMENTS)
    assert not is_quoted(Citation((), "It is"), DOCUMENTS)
    assert not is_quoted(Citation((0,), " "), DOCUMENTS)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("<co:1>It is green</co>.\nCited Documents: 1", ""),
        ("They do not say this.\nCited Documents: none", ""),
        ("<co:1>It is blue</co>.\nCited Documents: 1", "span not in the document"),
        ("<co:1>It is green</co>.\nCited Documents: 0", "other documents named"),
        ("<co:1>It is green</co>.", "no closing line"),
        ("<co:7>It is green</co>.\nCited Documents: 7", "span not in the document"),
    ],
)
def test_a_wrong_citation_is_told(answer: str, fault: str) -> None:
    prompt = documents_prompt("?", DOCUMENTS)
    assert citation_fault(Chat("c", (*prompt, Message("assistant", answer)))) == fault


def test_cited_answers_quote_their_documents() -> None:
    found = CitedAnswers(300, unanswerable=0.2).write(2)
    assert len(found.rows) == 300
    assert {item.reason for item in found.dropped} <= {"double"}
    for row in found.rows:
        documents = documents_in(row.prompt)
        assert len({document.title for document in documents}) == len(documents) >= 1
        citations = read_citations(row.answer)
        assert [list(c.documents) for c in citations] == [[n] for n in row.meta["cited"]] or sorted(
            n for c in citations for n in c.documents
        ) == row.meta["cited"]
        for citation in citations:
            [number] = citation.documents
            assert citation.span[1:] in documents[number].text
    without = sum(not row.meta["cited"] for row in found.rows)
    assert 30 < without < 90
    assert all(row.meta["cited"] for row in CitedAnswers(30, unanswerable=0.0).write(1).rows)
    assert CitedAnswers(20).write(1) == CitedAnswers(20).write(1) != CitedAnswers(20).write(2)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"values": {"x": "nonsense"}}, "'nonsense' is no kind of value"),
        ({"facts": [["Who?", "{x} did."]]}, "cites nothing"),
        ({"facts": [["Who?", "<co>{y}</co>"]]}, "a gap has no value"),
        ({"facts": ["Who?"]}, "cannot be used"),
    ],
)
def test_a_broken_topic_names_its_row(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    row: dict[str, Any] = {"values": {"x": "city"}, "title": "{x}", "sentences": ["{x} is old."]}
    row |= {"facts": [["Who?", "<co>{x} is old</co>."]], **change}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"own.jsonl:1: .*{fault}"):
        read_topics(path)


def test_every_shipped_topic_can_be_asked_about() -> None:
    topics = [row for _, row in read_jsonl(SEEDS / "documents.jsonl")]
    assert len(topics) == len(read_topics(SEEDS / "documents.jsonl")) >= 12
    for topic in topics:
        text = " ".join(topic["sentences"]).lower()
        for _, answer in topic["facts"]:
            assert answer.split("<co>")[1].split("</co>")[0].lower() in text


def test_a_teacher_writes_texts_and_objects_for_plain_schemas(tmp_path: Path) -> None:
    table = {"title": "T", "type": "object", "properties": {"city": {"type": "string"}}}
    table |= {"required": ["city"], "additionalProperties": False}
    path = tmp_path / "schemas.jsonl"
    path.write_text(json.dumps(table) + "\n")
    numbers = iter(range(100))
    answers = iter(
        ['```json\n{"city": "Oslo"}\n```', "Oslo", '{"city": "Rome"}', '{"town": "Oslo"}', "[]"]
    )
    given: dict[str, str] = {}

    def rule(asked: Request) -> str:
        if "Below is a JSON Schema" in last(asked):
            return f"He lives in Oslo, number {next(numbers)}."
        # the first attempt of each text gets the next answer, the second the right one
        text = asked.messages[1].content
        return given.setdefault(text, next(answers)) if text not in given else '{"city": "Oslo"}'

    stage = JSONMode(5, str(path), teacher="t", retries=0)
    found = stage.ask_teacher(Teacher(rule), [], seed=1)
    assert [row.answer for row in found.rows] == ['{"city": "Oslo"}']
    assert schema_of(found.rows[0].messages) == table
    assert [item.reason for item in found.dropped] == [
        "no JSON object",
        "value not in the text",
        "does not fit the schema",
        "no JSON object",
    ]
    answers = iter(["Oslo"] * 5)
    given.clear()
    teacher = Teacher(rule)
    again = JSONMode(5, str(path), teacher="t", retries=1).ask_teacher(teacher, [], seed=1)
    assert len(again.rows) == 5
    assert "the answer is no JSON" in last(teacher.seen[-1])
    same = Teacher(lambda asked: "The same.")
    doubles = stage.ask_teacher(same, [], seed=1)
    assert [item.reason for item in doubles.dropped].count("double") == 4
    path.write_text('{"type": "dict"}\n')
    with pytest.raises(DataError, match=r"schemas.jsonl:1: the row is no JSON Schema"):
        stage.ask_teacher(same, [], seed=1)
    path.write_text('{"type": "string"}\n')
    with pytest.raises(DataError, match=r"schemas.jsonl:1: the schema is not one of an object"):
        stage.ask_teacher(same, [], seed=1)


def test_a_teacher_that_writes_noise_gives_valid_objects_where_it_is_held_to_their_schema(
    roomy_model: Path, tmp_path: Path
) -> None:
    table = {"type": "object", "properties": {"kind": {"enum": ["a bill", "a note"]}}}
    path = tmp_path / "schemas.jsonl"
    path.write_text(json.dumps({**table, "required": ["kind"]}) + "\n")
    from bezoar.model.stack import Stack

    backend = StackBackend(Stack(ModelSpec(str(roomy_model), dtype="float32")), ChatML())

    def ask(requests: Sequence[Request]) -> list[Reply]:
        # a random model never ends by itself: its texts are taken as they are cut
        replies = [reply for _, reply in next(backend.answer(list(requests)))]
        return [
            replace(reply, finish="stop") if "Below is" in request.messages[0].content else reply
            for request, reply in zip(requests, replies, strict=True)
        ]

    stage = JSONMode(3, str(path), teacher="t", retries=0, answers=Sampling(max_tokens=30))
    free = stage.ask_teacher(ask, [], seed=1)
    held = replace(stage, structured=True).ask_teacher(ask, [], seed=1)
    assert not free.rows
    assert {row.answer for row in held.rows} <= {'{"kind": "a bill"}', '{"kind": "a note"}'}
    assert len(held.rows) == 3


def test_a_teacher_asks_about_the_answers_of_rows() -> None:
    names = ["Oslo", "Graz", "Lyon", "Riga"]
    more = "So it is. " * 8
    seeds = [chat(name, f"Tell me of {name}", f"{name} is old. {more}") for name in names]
    told: list[str] = []

    def rule(asked: Request) -> str:
        text = asked.messages[0].content
        if "Read this document" in text:
            return f"How old is it? {text.split('Tell me of ')[1][:4]} {asked.seed}"
        name = text.split("How old is it? ")[1][:4]
        titles = [f"Document:{number}\nTitle: Tell me of {name}" for number in range(5)]
        found = [number for number, title in enumerate(titles) if title in text]
        if not found:
            return "They do not say.\nCited Documents: none"
        if len(asked.messages) == 1:
            return f"<co:{found[0]}>{name} is young</co>\nCited Documents: {found[0]}"
        told.append(last(asked))
        return f"<co:{found[0]}>{name} is old</co>.\nCited Documents: {found[0]}"

    stage = CitedAnswers(30, teacher="t", seeds="s", unanswerable=0.3)
    found = stage.ask_teacher(Teacher(rule), seeds, seed=1)
    assert len(found.rows) == 30
    assert all(citation_fault(row) == "" for row in found.rows)
    assert 2 < sum(not row.meta["cited"] for row in found.rows) < 20
    assert set(told) == {
        "That is not right: span not in the document. Write the whole answer again."
    }
    strict = CitedAnswers(30, teacher="t", seeds="s", retries=0, unanswerable=0.0)
    dropped = strict.ask_teacher(Teacher(rule), seeds, seed=1).dropped
    assert [item.reason for item in dropped] == ["span not in the document"] * 30
    silent = Teacher(lambda asked: f"No. {asked.seed}\nCited Documents: none")
    dropped = strict.ask_teacher(silent, seeds, seed=1).dropped
    assert [item.reason for item in dropped] == ["nothing cited"] * 30
    with pytest.raises(DataError, match="s: 0 answers of 20 to 300 words are fewer than 3"):
        strict.ask_teacher(silent, [chat("a", "b", "too short")], seed=1)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds needs a teacher"):
        CitedAnswers(1, seeds="s")
    with pytest.raises(ValueError, match="name seeds"):
        CitedAnswers(1, teacher="t")
    with pytest.raises(ValueError, match="retries needs a teacher"):
        JSONMode(1, retries=4)
    with pytest.raises(ValueError, match="structured needs a teacher"):
        JSONMode(1, structured=True)
