"""The LaMini scheme (arXiv 2304.14402): a teacher writes new instructions after the manner of
seeds, then answers them."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.near_duplicates import NearDuplicates, check_threshold, phrases, words
from bezoar.errors import DataError
from bezoar.llm.types import Ask, Reply, Request
from bezoar.model.spec import Sampling
from bezoar.prompts import fill, read_list, read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for, seed_for
from bezoar.synth.answering import INVENTION, Draft, answer, quote_answers
from bezoar.synth.examples import is_instruction, opens_well, parse_examples
from bezoar.synth.scheme import Scheme

OPENING = "<example>"
NUM_TOPICS = 3
MAX_SEED_WORDS = 60
MIN_WORDS, MAX_WORDS = 3, 200
_PROMPT_TOKENS = 300


@dataclass(frozen=True)
class LaMini(Scheme):
    """Recipe keys. `num_rows` rows are wanted; waves of requests go on until they are there or
    `max_waves` have been sent (a wave of which every request failed is the last).

    `spare` is the share of instructions beyond the wanted rows that each wave looks for and
    answers: more requests, fewer waves. Each request shows `num_examples` random seed instructions
    (the paper: 3, of which 2 would do) and asks for `ask_for` new ones; a share `topic_share` of
    the requests also names three random topics. An instruction that nearly repeats a seed or an
    earlier one (`near_duplicate`, see near.py) is dropped. Answers follow under the system message
    in `system`.

    Ours, as the paper is silent: the share of topics (the paper has two sets of about equal size),
    the measure of nearness, that seeds of more than 60 words are no examples, that instructions
    have 3 to 200 words, the sampling, one retry of an unusable answer, and that a spare instruction
    takes the place of one whose answer stays unusable.
    """

    num_rows: int
    num_examples: int = 3
    ask_for: int = 20
    topic_share: float = 0.5
    near_duplicate: float = 0.7
    max_waves: int = 10
    openers: bool = False
    spare: float = 0.0
    retries: int = 1
    guided: FileRef = "bezoar:lamini_guided.txt"
    with_topics: FileRef = "bezoar:lamini_topics.txt"
    topics: FileRef = "bezoar:topics.txt"
    system: FileRef = "bezoar:lamini_system.txt"
    lists: Sampling = INVENTION
    answers: Sampling = field(default_factory=Sampling)
    kind: Literal["lamini"] = "lamini"

    def __post_init__(self) -> None:
        check_threshold(self.near_duplicate)
        if (
            min(self.num_rows, self.num_examples, self.ask_for, self.max_waves) < 1
            or self.retries < 0
        ):
            raise ValueError(
                "num_rows, num_examples, ask_for and max_waves must be at least 1, retries at"
                " least 0"
            )
        if not 0 <= self.topic_share <= 1 or self.spare < 0:
            raise ValueError("topic_share must be between 0 and 1, spare at least 0")

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of a user's instruction and the answer; `meta` names scheme, source, the seeds shown
        and the topics.

        Dropped: failed and unparsed lists; instructions that are cut, too short, too long, near
        duplicates, "no instruction" (`openers`), or that repeat five words of the prompt ("copied
        words"); unusable answers; "surplus" instructions that were not needed. DataError when there
        are too few seeds or topics.
        """
        search = _Search(self, as_chats(seeds), seed)
        rows: list[Chat] = []
        while len(rows) < self.num_rows:
            need = math.ceil((self.num_rows - len(rows)) * (1 + self.spare))
            while len(search.found) < need and search.num_waves < self.max_waves:
                search.send(ask, need - len(search.found))
            if not search.found:
                break
            drafts = [search.found.popleft() for _ in range(min(need, len(search.found)))]
            done = answer(
                drafts, ask, self.answers, seed=seed, retries=self.retries, system=search.system
            )
            rows += done.rows
            search.dropped += done.dropped
        surplus = [
            Dropped(row.id, "surplus", row.prompt[-1].content) for row in rows[self.num_rows :]
        ]
        surplus += [
            Dropped(draft.id, "surplus", draft.prompt[-1].content) for draft in search.found
        ]
        return Filtered(rows[: self.num_rows], [*search.dropped, *surplus])

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give, and calls: lists first, then answers. A list is taken to give
        half of what it is asked for."""
        wanted = math.ceil(self.num_rows * (1 + self.spare))
        lists = math.ceil(wanted / self.ask_for)
        most = min(self.max_waves * self.num_rows, 5 * lists)
        list_tokens = min(self.lists.max_tokens, 30 * self.ask_for)
        asked = RequestEstimate(
            Estimate(lists, 2 * lists, most),
            exactly(_PROMPT_TOKENS),
            Estimate(list_tokens / 2, list_tokens, self.lists.max_tokens),
        )
        given = Estimate(0, self.num_rows, self.num_rows)
        answers = quote_answers(exactly(wanted), 50, self.answers, self.retries)
        return Quote(given, [(self.teacher, asked), (self.teacher, answers)])


class _Search:
    """The instructions found so far, `found` those that wait for an answer."""

    def __init__(self, scheme: LaMini, seeds: Sequence[Chat], seed: int) -> None:
        self.scheme, self.seed = scheme, seed
        self.shown = [
            s for s in seeds if s.prompt and len(_instruction(s).split()) <= MAX_SEED_WORDS
        ]
        if len(self.shown) < scheme.num_examples:
            raise DataError(
                f"lamini: {len(self.shown)} seeds of at most {MAX_SEED_WORDS} words are fewer than"
                f" num_examples, {scheme.num_examples}; add seeds."
            )
        self.topics = read_list(scheme.topics) if scheme.topic_share else []
        if scheme.topic_share and len(self.topics) < NUM_TOPICS:
            raise DataError(
                f"{scheme.topics}: {len(self.topics)} topics are fewer than {NUM_TOPICS}; add"
                " topics or set topic_share to 0."
            )
        self.guided = read_prompt(scheme.guided, "examples", "num")
        self.with_topics = read_prompt(scheme.with_topics, "examples", "num", "topics")
        self.system = read_prompt(scheme.system)
        self.openers = (
            [text.split()[0] for text in map(_instruction, self.shown) if opens_well(text)]
            if scheme.openers
            else []
        )
        if scheme.openers and not self.openers:
            raise DataError(
                "lamini: no seed is a question or begins with an English verb; set openers to"
                " false."
            )
        self.own_words = phrases(self.guided) | phrases(self.with_topics)
        self.seen = NearDuplicates(scheme.near_duplicate)
        for row in seeds:
            self.seen.add(row.id, _instruction(row))
        self.found: deque[Draft] = deque()
        self.dropped: list[Dropped] = []
        self.num_waves = self.num_lists = self.num_distinct = 0

    def send(self, ask: Ask, need: int) -> None:
        """One wave: as many lists as should give `need` instructions, judged by the yield of the
        lists so far."""
        scheme = self.scheme
        a_list = max(1.0, self.num_distinct / self.num_lists) if self.num_lists else scheme.ask_for
        asked = [
            self._list(number)
            for number in range(self.num_lists, self.num_lists + math.ceil(need / a_list))
        ]
        replies = ask([listing.request for listing in asked])
        for listing, reply in zip(asked, replies, strict=True):
            self._read(listing, reply)
        self.num_lists += len(asked)
        self.num_waves = (
            self.num_waves + 1
            if any(reply.finish != "error" for reply in replies)
            else scheme.max_waves
        )

    def _list(self, number: int) -> "_List":
        """List `number`: what is asked for, and the provenance of what comes of it."""
        scheme = self.scheme
        random = rng_for(self.seed, "list", number)
        shown = random.sample(self.shown, scheme.num_examples)
        values = {
            "examples": "\n".join(f"{OPENING}{_instruction(s)}</example>" for s in shown),
            "num": str(scheme.ask_for),
        }
        meta: dict[str, object] = {
            "scheme": "lamini",
            "source": "guided",
            "seeds": [s.id for s in shown],
        }
        prompt = self.guided
        if _with_topics(number, scheme.topic_share):
            topics = random.sample(self.topics, NUM_TOPICS)
            values["topics"] = '"' + ", ".join(topics) + '"'
            meta.update(source="topic", topics=topics)
            prompt = self.with_topics
        prefill = OPENING + (random.choice(self.openers) if scheme.openers else "")
        messages = (Message("user", fill(prompt, **values)),)
        return _List(
            f"lamini-{number}",
            Request.sampled(
                messages, scheme.lists, seed_for(self.seed, "list", number), prefill=prefill
            ),
            meta,
        )

    def _read(self, listing: "_List", reply: Reply) -> None:
        """Queue the new instructions of a reply and count the others."""
        if reply.finish == "error":
            self.dropped.append(Dropped(listing.id, "failed", reply.error))
            return
        examples = parse_examples(
            listing.request.prefill + reply.text, cut=reply.finish == "length"
        )
        if not examples:
            self.dropped.append(Dropped(listing.id, "unparsed", reply.text[:400]))
        for place, example in enumerate(examples):
            name, detail = f"{listing.id}.{place}", example.text[:400]
            reason = "cut" if example.cut else self._fault(example.text)
            twin = None if reason else self.seen.add(name, example.text)
            if twin:
                reason, detail = "near duplicate", f"{detail} (as {twin[0]}, {twin[1]:.2f})"
            if reason:
                self.dropped.append(Dropped(name, reason, detail))
                continue
            self.num_distinct += 1
            self.found.append(Draft(name, (Message("user", example.text),), dict(listing.meta)))

    def _fault(self, text: str) -> str:
        """Why a text cannot be an instruction; "" when it can."""
        num_words = len(words(text))
        if not MIN_WORDS <= num_words <= MAX_WORDS:
            return "too short" if num_words < MIN_WORDS else "too long"
        if self.scheme.openers and not is_instruction(text):
            return "no instruction"
        return "copied words" if phrases(text) & self.own_words else ""


@dataclass(frozen=True)
class _List:
    """A request for instructions and their provenance."""

    id: str
    request: Request
    meta: dict[str, object]


def _instruction(row: Chat) -> str:
    return next((m.content for m in row.prompt if m.role == "user"), "")


def _with_topics(number: int, share: float) -> bool:
    """Whether list `number` names topics, such that the share is exact in every stretch of
    lists."""
    return math.floor((number + 1) * share + 1e-9) > math.floor(number * share + 1e-9)
