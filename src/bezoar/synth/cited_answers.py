"""Questions about documents, with answers that cite them."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.bounds import Share
from bezoar.chat.citations import (
    NONE,
    Document,
    cited_line,
    documents_in,
    documents_prompt,
    is_quoted,
    read_citations,
)
from bezoar.chat.row_types import TEXTS, RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, read_file
from bezoar.errors import DataError
from bezoar.llm.types import Ask, Request
from bezoar.prompts import read_prompt, seal
from bezoar.references import FileRef, RowsRef
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Outputs, StageContext
from bezoar.synth.accepted import written
from bezoar.synth.drawn_rows import DrawnRows, draw_rows
from bezoar.synth.scheme import VARIED, first_user_message
from bezoar.synth.tools.values import articles, draw_different, schema
from bezoar.synth.waves import Wished, ask_until

SHIPPED = "bezoar:documents.jsonl"
_UNKNOWN = (
    "The documents do not say this.",
    "I cannot answer that from the documents.",
    "None of the documents answers this question.",
)
_GAP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Topic:
    """A kind of document: sentences with gaps, and questions with answers in which `<co>...</co>`
    holds words of a sentence."""

    values: Mapping[str, str]
    title: str
    sentences: Sequence[str]
    facts: Sequence[tuple[str, str]]

    def fill(self, rng: random.Random) -> tuple[Document, list[tuple[str, str]]]:
        """A document with drawn values, and what can be asked about it."""
        drawn = draw_different(self.values, rng)
        words = {name: str(said.value) for name, said in drawn.items()}

        def told(text: str) -> str:
            said = articles(_GAP.sub(lambda gap: words[gap[1]], text))
            return said[:1].upper() + said[1:]

        document = Document(told(self.title), " ".join(map(told, self.sentences)))
        return document, [(told(question), told(answer)) for question, answer in self.facts]


@dataclass(frozen=True)
class CitedAnswers(DrawnRows):
    """Questions about a list of documents, with answers that quote and cite them.

    Prompt and answer are as in figure 8 of Hermes 3. Without a teacher, each row has one or two
    questions about documents that are drawn from topics. With one, the documents are the answers of
    `seeds`, and the teacher writes question and answer; a wrong answer is told to it. Every cited
    span has to stand in its document, and the closing line to name the documents that are cited. In
    a share of the rows no document answers. Ours: topics, prompts, and "none" in the closing line.

    Source: arXiv 2408.11857, figure 8 (the format)
    Example: {kind: cited_answers, num_rows: 500}
    """

    topics: FileRef = SHIPPED
    """Without a teacher: JSON Lines of topics with values, title, sentences and facts."""
    seeds: RowsRef = ""
    """With a teacher: a stage whose answers of 20 to 300 words are the documents."""
    unanswerable: Share = 0.15
    """Share of the rows whose question no document answers."""
    kind: Literal["cited_answers"] = "cited_answers"
    usual_tokens = 360.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher and (not self.seeds or self.topics != SHIPPED):
            raise ValueError("a teacher writes about the rows of seeds, not of topics; name seeds")

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with one answer that counts."""
        return {"seeds": TEXTS} if self.seeds else {}

    def read_seeds(self, context: StageContext) -> list[AnyRow]:
        """The rows whose answers are the documents."""
        return context.rows(self.seeds)

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "cited"}))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations; equal seeds give equal rows."""
        topics = read_topics(locate_file(self.topics, Path(), "topics"))

        def make(number: int, rng: random.Random) -> Chat:
            return self._chat(number, topics, rng)

        return draw_rows(self.kind, written(self.num_rows), seed, make, citation_fault)

    def ask_teacher(self, ask: Ask, seeds: Sequence[AnyRow], *, seed: int) -> Filtered[Chat]:
        """The conversations that a teacher wrote rightly.

        Dropped: unusable replies, "double", "nothing cited", "cited without an answer", "no closing
        line", "span not in the document", "other documents named". DataError for fewer than three
        documents.
        """
        # a document that is there twice would be cited under one of two numbers, by chance
        documents = list({d.text: d for d in map(_document, as_chats(seeds)) if d}.values())
        if len(documents) < 3:
            what = f"{len(documents)} answers of 20 to 300 words are fewer than 3"
            raise DataError(f"{self.seeds}: {what}; name other rows.")
        question_prompt = read_prompt("bezoar:cite_question.txt", "document")
        answer_prompt = read_prompt("bezoar:cite_answer.txt", "question", "documents")
        drafts = [self._wished(number, documents, seed) for number in range(written(self.num_rows))]

        def question_request(draft: _Wished, attempt: int) -> Request:
            text = seal(question_prompt, document=f"{draft.wanted.title}\n{draft.wanted.text}")
            turns = (Message("user", text),)
            return Request.sampled(turns, VARIED, seed_for(seed, draft.id, "question", attempt))

        def answer_request(draft: _Wished, attempt: int) -> Request:
            listed = documents_prompt("", draft.documents)[-1].content.partition("CONTEXT:\n\n")[2]
            text = seal(answer_prompt, question=draft.question, documents=listed)
            turns = (Message("user", text), *draft.dialogue)
            return Request.sampled(turns, self.answers, seed_for(seed, draft.id, attempt))

        seen: set[str] = set()

        def read_question(draft: _Wished, text: str) -> str:
            is_double, draft.question = text in seen, text
            seen.add(text)
            return "double" if is_double else ""

        ask_until(drafts, ask, self.retries, question_request, read_question)
        ask_until(drafts, ask, self.retries, answer_request, _read_answer)
        return Filtered.split(draft.result() for draft in drafts)

    def _wished(self, number: int, documents: Sequence[Document], seed: int) -> "_Wished":
        rng = rng_for("cited_answers teacher", seed, number)
        # as many as in drawn rows, so that both kinds of row look alike
        wanted, *others = rng.sample(documents, min(len(documents), rng.randint(3, 5)))
        # where no document answers, the question is about one that is not shown
        shown = others if rng.random() < self.unanswerable else [wanted, *others]
        return _Wished(f"cited_answers-{number}", wanted, rng.sample(shown, len(shown)))

    def _chat(self, number: int, topics: Sequence[Topic], rng: random.Random) -> Chat:
        # 1) Documents, some of which are of one topic: the question has to be read to its end.
        chosen = [rng.choice(topics) for _ in range(rng.randint(2, 4))]
        # two documents of one title could not be told apart by a question
        by_title = {}
        for topic in [chosen[0], *chosen]:
            document, facts = topic.fill(rng)
            by_title[document.title] = (document, facts)
        drawn = list(by_title.values())
        rng.shuffle(drawn)
        # 2) Questions, about one document or two; or about one that is left out again.
        if rng.random() < self.unanswerable:
            _, facts = drawn.pop()
            question, answer, cited = rng.choice(facts)[0], rng.choice(_UNKNOWN), []
        else:
            cited = rng.sample(range(len(drawn)), rng.choice((1, 1, 2)))
            asked = [rng.choice(drawn[index][1]) for index in cited]
            question = " ".join(text for text, _ in asked)
            spans = zip(cited, (answer for _, answer in asked), strict=True)
            answer = " ".join(text.replace("<co>", f"<co:{at}>") for at, text in spans)
        named = ", ".join(map(str, sorted(cited))) or NONE
        prompt = documents_prompt(question, [document for document, _ in drawn])
        messages = (*prompt, Message("assistant", f"{answer}\nCited Documents: {named}"))
        meta: dict[str, Any] = {"scheme": self.kind, "cited": sorted(cited)}
        return Chat(f"cited_answers-{number}", messages, meta)


@dataclass
class _Wished(Wished):
    """A conversation that a teacher writes, with a question about the document `wanted`."""

    wanted: Document
    documents: list[Document]
    question: str = ""
    answer: str = ""

    def chat(self) -> Chat:
        """The conversation."""
        prompt = documents_prompt(self.question, self.documents)
        cited = sorted(set(cited_line(self.answer) or ()))
        meta = {"scheme": "cited_answers", "cited": cited}
        return Chat(self.id, (*prompt, Message("assistant", self.answer)), meta)

    def result(self) -> Chat | Dropped:
        """The conversation, or why there is none."""
        if not self.reason:
            return self.chat()
        return Dropped(self.id, self.reason, f"{self.question} -> {self.detail}")


def _read_answer(draft: _Wished, text: str) -> str:
    draft.answer = text
    cites = bool(read_citations(text))
    # the teacher is not told which document answers: that it finds it is the check
    if cites != (draft.wanted in draft.documents):
        return "cited without an answer" if cites else "nothing cited"
    reason = citation_fault(draft.chat())
    if reason:
        draft.tell(text, reason)
    return reason


def _document(row: Chat) -> Document | None:
    """The answer of a row as a document, its title the start of the first request."""
    # rows have no titles; what was asked says best what an answer is about
    title = first_user_message(row).strip().split("\n")[0]
    text = " ".join(row.answer.split())
    return Document(title[:80], text) if 20 <= len(text.split()) <= 300 else None


def citation_fault(chat: Chat) -> str:
    """Why a cited answer is wrong: "no closing line", "span not in the document" or "other
    documents named"."""
    named = cited_line(chat.answer)
    if named is None:
        return "no closing line"
    documents, citations = documents_in(chat.prompt), read_citations(chat.answer)
    if not all(is_quoted(citation, documents) for citation in citations):
        return "span not in the document"
    used = {number for citation in citations for number in citation.documents}
    return "" if set(named) == used else "other documents named"


def read_topics(path: Path) -> list[Topic]:
    """The topics of a file. DataError names the row that is wrong."""
    return [_topic(at, row) for at, row in read_file(path, path.name)]


def _topic(at: RowOrigin, row: Mapping[str, Any]) -> Topic:
    try:
        facts = [(question, answer) for question, answer in row["facts"]]
        topic = Topic(row["values"], row["title"], row["sentences"], facts)
        for kind in topic.values.values():
            schema(kind)
        # a gap without a value, or an answer that quotes nothing, shows here
        for _, answer in topic.fill(random.Random(0))[1]:
            if "<co>" not in answer or "</co>" not in answer:
                raise ValueError(f"the answer {answer!r} cites nothing")
    except KeyError as error:
        raise at.wrong(f"a topic needs {error}, or a gap has no value; add it.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise at.wrong(f"the topic cannot be used: {error}; mend it.") from None
    return topic
