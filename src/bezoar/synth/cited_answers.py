"""Questions about documents, with answers that cite them."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.bounds import Count, Share
from bezoar.chat.citations import (
    NONE,
    Document,
    cited_line,
    documents_in,
    documents_prompt,
    is_quoted,
    read_citations,
)
from bezoar.chat.row_types import RowType
from bezoar.chat.types import Chat, Filtered, Message
from bezoar.cost import Estimate, Quote, exactly
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, read_file
from bezoar.references import FileRef
from bezoar.stage import Outputs, Stage, StageContext, Stats
from bezoar.synth.drawn_rows import draw_rows
from bezoar.synth.tools.values import articles, draw, schema

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
        words: dict[str, str] = {}
        for name, kind in self.values.items():
            # no line from a city to itself
            while name not in words or words[name] in (words[n] for n in words if n != name):
                words[name] = str(draw(kind, rng).value)

        def told(text: str) -> str:
            said = articles(_GAP.sub(lambda gap: words[gap[1]], text))
            return said[:1].upper() + said[1:]

        document = Document(told(self.title), " ".join(map(told, self.sentences)))
        return document, [(told(question), told(answer)) for question, answer in self.facts]


@dataclass(frozen=True)
class CitedAnswers(Stage):
    """Questions about a list of documents, with answers that quote and cite them, no teacher.

    Prompt and answer are as in figure 8 of Hermes 3. Each row has one or two questions about
    documents that are drawn from topics; every cited span is checked to stand in its document, and
    the closing line to name the documents that are cited. In a share of the rows no document
    answers. Topics and questions are ours.

    Source: arXiv 2408.11857, figure 8 (the format)
    Example: {kind: cited_answers, num_rows: 500}
    """

    num_rows: Count
    """Conversations to write; equal ones are replaced."""
    topics: FileRef = "bezoar:documents.jsonl"
    """JSON Lines of topics with values, title, sentences and facts."""
    unanswerable: Share = 0.15
    """Share of the rows whose question no document answers."""
    kind: Literal["cited_answers"] = "cited_answers"
    gives = "rows"

    def files(self) -> list[Path]:
        """The words that values are drawn from."""
        return [locate_file("bezoar:words.jsonl", Path(), "words")]

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "cited"}))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; no requests."""
        return Quote(exactly(self.num_rows))

    def run(self, context: StageContext) -> Stats:
        """Write the rows."""
        written = self.write(context.seed)
        return context.write_rows(written, len(written.rows) + len(written.dropped))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations; equal seeds give equal rows."""
        topics = read_topics(locate_file(self.topics, Path(), "topics"))

        def make(number: int, rng: random.Random) -> tuple[Chat, bool]:
            return self._chat(number, topics, rng), False

        return draw_rows(self.kind, self.num_rows, seed, make, citation_fault)

    def _chat(self, number: int, topics: Sequence[Topic], rng: random.Random) -> Chat:
        # 1) Documents, some of which are of one topic: the question has to be read to its end.
        chosen = [rng.choice(topics) for _ in range(rng.randint(2, 4))]
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


def citation_fault(chat: Chat) -> str:
    """Why a cited answer is wrong: "span not in the document" or "other documents named"."""
    documents, citations = documents_in(chat.prompt), read_citations(chat.answer)
    if not all(is_quoted(citation, documents) for citation in citations):
        return "span not in the document"
    used = {number for citation in citations for number in citation.documents}
    return "" if set(cited_line(chat.answer) or ()) == used else "other documents named"


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
