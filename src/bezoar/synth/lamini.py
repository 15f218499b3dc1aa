"""The LaMini scheme: a teacher writes instructions in the manner of seeds, then answers them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.bounds import Count, NotNegative, Share
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.near_duplicates import NearDuplicates, Similarity, phrases, words
from bezoar.errors import DataError
from bezoar.llm.types import Ask, Reply, Request, fault
from bezoar.model.spec import Sampling
from bezoar.prompts import fill, read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Rows
from bezoar.synth.accepted import RowCount, written
from bezoar.synth.examples import is_instruction, opens_well, parse_examples
from bezoar.synth.scheme import VARIED, Draft, Scheme, first_user_message
from bezoar.synth.topics import read_topics

OPENING = "<example>"
NUM_TOPICS = 3
MAX_SEED_WORDS = 60
MIN_WORDS, MAX_WORDS = 3, 200
_PROMPT_TOKENS = 300


@dataclass(frozen=True)
class LaMini(Scheme):
    """A teacher writes lists of new instructions after examples from the seeds, and answers them.

    Ours, as the paper is silent: the share of topics (the paper has two sets of about equal size),
    the measure of near duplicates, that seeds of more than 60 words are no examples, that
    instructions have 3 to 200 words, the sampling, one retry of an unusable answer, and that
    another instruction takes the place of one whose answer stays unusable.

    Source: arXiv 2304.14402
    Example: {kind: lamini, seeds: dolly, teacher: teacher, num_rows: 1000}
    """

    num_rows: RowCount
    """Rows wanted; waves of requests go on until they are there or `max_waves` were sent.
    {accepted: N}: as many as the filters behind need to keep N."""
    num_examples: Count = 3
    """Random seed instructions that each request shows (the paper: 3, though 2 would do)."""
    ask_for: Count = 20
    """New instructions that each request asks for."""
    topic_share: Share = 0.5
    """Share of the requests that also name three random topics."""
    near_duplicate: Similarity = 0.7
    """Similarity to a seed or an earlier instruction from which a new one is dropped."""
    max_waves: Count = 10
    """Most waves of requests; a wave of which every request failed is the last."""
    openers: bool = False
    """For weak teachers: begin each list with a seed's first word; drop texts that ask nothing."""
    spare: NotNegative = 0.0
    """Share of instructions beyond those needed that each wave adds: more requests, fewer waves."""
    guided: FileRef = "bezoar:lamini_guided.txt"
    """Prompt file with {examples} and {num}."""
    with_topics: FileRef = "bezoar:lamini_topics.txt"
    """Prompt file with {examples}, {num} and {topics}."""
    topics: FileRef = "bezoar:topics.txt"
    """Text file with a topic a line, or a table of Wikipedia's categories for the paper's rule."""
    system: FileRef = "bezoar:lamini_system.txt"
    """Prompt file: the teacher's system message for answers, which is not part of the rows."""
    lists: Sampling = VARIED
    """How lists of instructions are drawn."""
    kind: Literal["lamini"] = "lamini"
    carries = frozenset({"scheme"})
    fills = True

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of instruction and answer; `meta` names the source, the seeds shown and the topics.

        Dropped: lists that failed or hold no example; instructions that are truncated, too short,
        too long, near duplicates, "no instruction" (`openers`), or share five words in a row with
        the prompt ("copied words"); unusable answers; "surplus" instructions. DataError for too few
        seeds or topics.
        """
        return Filtered.split(self.each(seeds, ask, seed=seed))

    def each(
        self, seeds: Rows, ask: Ask, *, seed: int, work_dir: Path | None = None, whole: bool = False
    ) -> Iterator[Chat | Dropped]:
        """The same as it comes; in memory are the seeds, all instructions and a part's answers."""
        search, num_rows = _Search(self, as_chats(seeds), seed), written(self.num_rows)
        num, surplus = 0, list[Chat | Draft]()
        while num < num_rows:
            # 1) Queue instructions for the missing rows. The waves are counted over all rounds.
            num_needed = math.ceil((num_rows - num) * (1 + self.spare))
            while len(search.queue) < num_needed and search.num_waves < self.max_waves:
                search.send_wave(ask, num_needed - len(search.queue))
            if not search.queue:
                break
            # 2) Answer them. Unusable answers leave rows missing, for which the next round looks.
            drafts, search.queue = search.queue[:num_needed], search.queue[num_needed:]
            yield from search.take_dropped()
            how: dict[str, Any] = {"seed": seed, "system": search.system, "whole": whole}
            for result in self.answer_each(drafts, ask, **how):
                if isinstance(result, Dropped) or num < num_rows:
                    num += isinstance(result, Chat)
                    yield result
                else:
                    surplus.append(result)
        yield from search.take_dropped()
        # 3) Count what was not needed, so that no instruction disappears.
        for item in (*surplus, *search.queue):
            yield Dropped(item.id, "surplus", item.prompt[-1].content)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Requests for lists, which are assumed to be half usable, and for answers."""
        num_rows = written(self.num_rows)
        num_wanted = math.ceil(num_rows * (1 + self.spare))
        num_lists = math.ceil(num_wanted / self.ask_for)
        list_tokens = min(self.lists.max_tokens, 30 * self.ask_for)
        lists = RequestEstimate(
            Estimate(num_lists, 2 * num_lists, min(self.max_waves * num_rows, 5 * num_lists)),
            exactly(_PROMPT_TOKENS),
            Estimate(list_tokens / 2, list_tokens, self.lists.max_tokens),
        )
        answers = self.quote_answers(exactly(num_wanted), 50)
        given = Estimate(0, num_rows, num_rows)
        return Quote(given, [(self.teacher, lists), (self.teacher, answers)])


@dataclass(frozen=True)
class _ListRequest:
    """A request for a list of instructions, and the provenance of what comes of it."""

    id: str
    request: Request
    meta: dict[str, Any]


class _Search:
    """The instructions found so far; `queue` holds those that wait for an answer."""

    def __init__(self, scheme: LaMini, seeds: Sequence[Chat], seed: int) -> None:
        self.scheme, self.seed = scheme, seed

        def is_short(row: Chat) -> bool:
            return len(first_user_message(row).split()) <= MAX_SEED_WORDS

        self.examples = [row for row in seeds if row.prompt and is_short(row)]
        if len(self.examples) < scheme.num_examples:
            raise DataError(
                f"lamini: {len(self.examples)} seeds of at most {MAX_SEED_WORDS} words are fewer"
                f" than num_examples, {scheme.num_examples}; add seeds."
            )
        self.topics = read_topics(scheme.topics) if scheme.topic_share else []
        if scheme.topic_share and len(self.topics) < NUM_TOPICS:
            raise DataError(
                f"{scheme.topics}: {len(self.topics)} topics are fewer than {NUM_TOPICS}; add"
                " topics or set topic_share to 0."
            )
        texts = [first_user_message(row) for row in self.examples]
        self.openers = [text.split()[0] for text in texts if scheme.openers and opens_well(text)]
        if scheme.openers and not self.openers:
            raise DataError(
                "lamini: no seed is a question or begins with an English verb; set openers: false."
            )
        self.guided = read_prompt(scheme.guided, "examples", "num")
        self.with_topics = read_prompt(scheme.with_topics, "examples", "num", "topics")
        self.system = read_prompt(scheme.system)
        self.prompt_phrases = phrases(self.guided) | phrases(self.with_topics)
        self.seen = NearDuplicates(scheme.near_duplicate)
        # All seeds, also those too long to be examples: none shall come back as new.
        list(self.seen.add((row.id, first_user_message(row)) for row in seeds))
        self.queue: list[Draft] = []
        self.dropped: list[Dropped] = []
        self.num_waves = self.num_lists = self.num_distinct = 0

    def take_dropped(self) -> list[Dropped]:
        """What was dropped since this was asked last."""
        dropped, self.dropped = self.dropped, []
        return dropped

    def send_wave(self, ask: Ask, num_needed: int) -> None:
        """As many lists as should give `num_needed` instructions, by the yield of those so far."""
        # Assume at first that a list is complete: what is missing is left to the next wave, while
        # instructions in excess would be paid for in vain.
        per_list: float = self.scheme.ask_for
        if self.num_lists:
            per_list = max(1.0, self.num_distinct / self.num_lists)
        numbers = range(self.num_lists, self.num_lists + math.ceil(num_needed / per_list))
        wave = [self._list_request(number) for number in numbers]
        replies = ask([sent.request for sent in wave])
        self._take([item for pair in zip(wave, replies, strict=True) for item in self._read(*pair)])
        self.num_lists += len(wave)
        # A teacher that answers nothing is not asked again in this run.
        all_failed = all(reply.finish == "error" for reply in replies)
        self.num_waves = self.scheme.max_waves if all_failed else self.num_waves + 1

    def _list_request(self, number: int) -> _ListRequest:
        """The request for list `number`; its draws depend on the seed and the number only."""
        # Examples first, then topics, then the opener: another order would be other requests, and
        # none of the replies in the journal would be found.
        scheme, rng = self.scheme, rng_for(self.seed, "list", number)
        examples = rng.sample(self.examples, scheme.num_examples)
        values = {
            "examples": "\n".join(f"{OPENING}{first_user_message(s)}</example>" for s in examples),
            "num": str(scheme.ask_for),
        }
        meta: dict[str, Any] = {
            "scheme": "lamini",
            "source": "guided",
            "seeds": [row.id for row in examples],
        }
        prompt = self.guided
        if _has_topics(number, scheme.topic_share):
            topics = rng.sample(self.topics, NUM_TOPICS)
            values["topics"] = '"' + ", ".join(topics) + '"'
            meta |= {"source": "topic", "topics": topics}
            prompt = self.with_topics
        request = Request.sampled(
            (Message("user", fill(prompt, **values)),),
            scheme.lists,
            seed_for(self.seed, "list", number),
            prefill=OPENING + (rng.choice(self.openers) if scheme.openers else ""),
        )
        return _ListRequest(f"lamini-{number}", request, meta)

    def _read(self, sent: _ListRequest, reply: Reply) -> Iterator[Draft | Dropped]:
        """The instructions of a reply that may be taken if they are new, and the others."""
        if reply.finish == "error":
            yield Dropped(sent.id, fault(reply), reply.error)
            return
        text = sent.request.prefill + reply.text
        examples = parse_examples(text, cut=reply.finish == "length")
        if not examples:
            yield Dropped(sent.id, "unparsed", reply.text[:400])
        for index, example in enumerate(examples):
            name = f"{sent.id}.{index}"
            if reason := "truncated" if example.cut else self._fault(example.text):
                yield Dropped(name, reason, example.text[:400])
            else:
                yield Draft(name, (Message("user", example.text),), dict(sent.meta))

    def _take(self, found: list[Draft | Dropped]) -> None:
        """Queue the new instructions and count the others."""
        # only what passes every other check is remembered as seen
        texts = ((item.id, item.prompt[0].content) for item in found if isinstance(item, Draft))
        twins = self.seen.add(texts)
        for item in found:
            if isinstance(item, Dropped):
                self.dropped.append(item)
            elif twin := next(twins):
                detail = f"{item.prompt[0].content[:400]} (as {twin[0]}, {twin[1]:.2f})"
                self.dropped.append(Dropped(item.id, "near duplicate", detail))
            else:
                self.num_distinct += 1
                self.queue.append(item)

    def _fault(self, text: str) -> str:
        """Why a text cannot be an instruction; "" if it can."""
        num_words = len(words(text))
        if not MIN_WORDS <= num_words <= MAX_WORDS:
            return "too short" if num_words < MIN_WORDS else "too long"
        if self.scheme.openers and not is_instruction(text):
            return "no instruction"
        return "copied words" if phrases(text) & self.prompt_phrases else ""


def _has_topics(number: int, share: float) -> bool:
    """Whether list `number` names topics, so that every stretch of lists has the exact share."""
    # 1e-9 keeps 3 * (1 / 3) from being rounded down to 0.
    return math.floor((number + 1) * share + 1e-9) > math.floor(number * share + 1e-9)
