"""Evaluation items that stand in the rows that a model was trained on."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from bezoar.chat.types import AnyRow, Comparison, Messages, SampledAnswers
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome, trained_on
from bezoar.evals.section import Section
from bezoar.evals.unread import Unread
from bezoar.io import Row, cached_hash, content_hash, read_intact, write_checked
from bezoar.references import RowsRef

# in scripts without spaces each character is a word
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
FEWEST_WORDS = 4  # of an item, or of a run; shorter ones would match by chance
HALF = 0.5
MOST_SHOWN = 100


@dataclass(frozen=True)
class Contamination(Section):
    """Searches the rows that trained the model for the items of the other sections.

    That is done always, in the rows of every training stage below the evaluated model; the key only
    adds rows or changes n. Rows that a training dropped are left out, those that it held out for
    validation are counted apart. The model was trained on an item if a row is equal to it but for
    case, white space and system messages (the prompt with the answer that is right; the prompt
    alone where an item has no answer), or if half of its runs of n words stand in the rows, of an
    item with an answer those that reach into it. The same prompt with another answer is another
    item, and counted apart. Runs that a tenth of a benchmark's items share (more than 10) are words
    of a template and do not count.

    Source: runs of words as in arXiv 2005.14165, appendix C
    Example: {n: 13}
    """

    rows: tuple[RowsRef, ...] = ()
    """Further stages whose rows are searched."""
    n: Annotated[int, Field(ge=FEWEST_WORDS)] = 8
    """Words of a run."""

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Counts by benchmark, with a warning for items that the model was trained on."""
        trained = context.lineage(model)
        stages = {stage.name: stage.rows for stage in trained}
        names = dict.fromkeys([*stages.values(), *self.rows])
        if not names or not context.texts:
            return Outcome()
        items = Items.of(context.texts, self.n)
        found, looked_at = dict[str, Row](), dict[str, Row]()
        for name in names:
            parts = Unread() if name in self.rows else Unread.of(trained, name)
            found[name] = _search_once(items, name, context, without=parts.dropped | parts.held_out)
            if parts.held_out:
                looked_at[name] = _search_once(items, name, context, only=parts.held_out)
        facts = {"n": self.n, "stages": stages, **compared(items, found, looked_at)}
        outcome = Outcome(info={"contamination": facts})
        for name, sentence in trained_on(outcome.info).items():
            context.progress.say(f"warning: {name}: {model} was {sentence}.")
        return outcome


class Item(NamedTuple):
    """One text of an item: as a whole, its prompt, and the runs of words that are evidence."""

    benchmark: str
    id: str
    whole: str
    prompt: str
    runs: list[str]

    @classmethod
    def of(cls, benchmark: str, text: ItemText, n: int) -> "Item":
        """One of 4 to `n` - 1 words is a single run, a shorter one has none."""
        name, prompt, answer = text
        first, words = len(_words(prompt)), _words(f"{prompt}\n{answer}")
        size = min(n, len(words))
        # those that end in the answer: what comes before it is the same under other answers
        runs = _runs(words, size)[max(0, first - size + 1) if first < len(words) else 0 :]
        kept = list(dict.fromkeys(runs)) if size >= FEWEST_WORDS else []
        return cls(benchmark, name, _whole(f"{prompt}\n{answer}"), _whole(prompt), kept)


@dataclass(frozen=True)
class Items:
    """What is searched for; `sizes` are those of the runs, in words."""

    items: list[Item]
    sizes: list[int]
    runs: frozenset[str]
    wholes: frozenset[str]

    @classmethod
    def of(cls, texts: Mapping[str, Iterable[ItemText]], n: int) -> "Items":
        """The items of benchmarks."""
        items = []
        for benchmark, entries in texts.items():
            drafts = [Item.of(benchmark, text, n) for text in entries]
            by_item = {(item.id, run) for item in drafts for run in item.runs}
            num_with = Counter(run for _, run in by_item)
            most = max(10, len({item.id for item in drafts}) // 10)
            items += [
                item._replace(runs=[run for run in item.runs if num_with[run] <= most])
                for item in drafts
            ]
        runs = frozenset(run for item in items for run in item.runs)
        sizes = sorted({run.count(" ") + 1 for run in runs})
        wholes = frozenset(text for item in items for text in (item.whole, item.prompt))
        return cls(items, sizes, runs, wholes - {""})


def search(rows: Iterable[AnyRow], items: Items) -> Row:
    """How many rows there are, and the first row of each run and of each whole text that is found.

    The rows are gone through once and not kept.
    """
    num_rows, runs, wholes = 0, dict[str, str](), dict[str, str]()
    for row in rows:
        num_rows += 1
        texts = row_texts(row)
        for words in map(_words, texts):
            for size in items.sizes:
                for run in items.runs.intersection(_runs(words, size)):
                    runs.setdefault(run, row.id)
        for whole in items.wholes.intersection(map(_whole, [spoken(row.prompt), *texts])):
            wholes.setdefault(whole, row.id)
    return {"rows": num_rows, "runs": runs, "wholes": wholes}


def compared(
    items: Items, found: Mapping[str, Row], looked_at: Mapping[str, Row] | None = None
) -> dict[str, Any]:
    """The rows searched by stage, counts by benchmark, and the items with a shared run, worst
    first.

    `found` is what `search` gave by stage. Of an item, `touched` says that it shares words with a
    row, `exact` that a row is equal to it, `trained_on` what counts as trained on, `same_prompt`
    that it does not count, though a row has its prompt. `looked_at` is the same for rows that
    served as validation: of the items that are in them alone the number is `validated`.
    """
    best = _best(items, found)
    validated = _best(items, looked_at) if looked_at else {}
    benchmarks = {}
    for name in dict.fromkeys(item.benchmark for item in items.items):
        own = [match for match in best.values() if match.benchmark == name]
        benchmarks[name] = {
            "items": len(own),
            "touched": sum(bool(match.row) for match in own),
            "exact": sum(match.exact for match in own),
            "trained_on": sum(match.trained_on for match in own),
            "same_prompt": sum(match.same_prompt and not match.trained_on for match in own),
        }
        if looked_at:
            benchmarks[name]["validated"] = sum(
                validated[name, match.item].trained_on and not match.trained_on for match in own
            )
    hits = [match for match in best.values() if match.row]
    hits.sort(key=lambda match: match.rank, reverse=True)
    num_rows = {name: table["rows"] for name, table in found.items()}
    touched = [asdict(match) for match in hits[:MOST_SHOWN]]
    return {"rows": num_rows, "benchmarks": benchmarks, "touched": touched}


def _best(items: Items, found: Mapping[str, Row]) -> "dict[tuple[str, str], Match]":
    """(benchmark, item) -> its worst match."""
    best: dict[tuple[str, str], Match] = {}
    for item in items.items:
        match, key = _match(item, found), (item.benchmark, item.id)
        if key not in best or match.rank > best[key].rank:
            best[key] = match
    return best


@dataclass(frozen=True)
class Match:
    """An item, the first row that it shares words with ("" for none), the share of its runs."""

    benchmark: str
    item: str
    stage: str = ""
    row: str = ""
    share: float = 0.0
    words: str = ""
    exact: bool = False
    same_prompt: bool = False

    @property
    def rank(self) -> tuple[bool, float, bool]:
        """The worst last."""
        return self.exact, self.share, self.same_prompt

    @property
    def trained_on(self) -> bool:
        """Whether the model that was trained on the rows was trained on the item."""
        return self.exact or self.share >= HALF


def _match(item: Item, found: Mapping[str, Row]) -> Match:
    # over all stages: half of an item may stand in the rows of one, half in those of another
    shared = [run for run in item.runs if any(run in table["runs"] for table in found.values())]
    share = len(shared) / len(item.runs) if shared else 0.0
    facts: dict[str, Any] = {
        "share": share,
        "exact": any(item.whole in table["wholes"] for table in found.values()),
        "same_prompt": any(item.prompt in table["wholes"] for table in found.values()),
    }
    # the row that says most: the equal one, the one with a shared run, the one with the prompt
    for kind, texts in (("wholes", [item.whole]), ("runs", shared), ("wholes", [item.prompt])):
        for text in texts:
            for stage, table in found.items():
                if row := table[kind].get(text):
                    return Match(item.benchmark, item.id, stage, row, words=text[:200], **facts)
    return Match(item.benchmark, item.id)


def _search_once(
    items: Items,
    name: str,
    context: EvalContext,
    *,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] | None = None,
) -> Row:
    """`search` of a stage's rows, once for all models that were trained on them."""
    stored_rows = (context.stored_rows or context.rows)(name)
    rows = (
        row for row in stored_rows if row.id not in without and (only is None or row.id in only)
    )
    path, folder = getattr(stored_rows, "path", None), context.shared_dir
    if path is None or folder is None:
        return search(rows, items)
    chosen = [sorted(without), None if only is None else sorted(only)]
    key = content_hash(cached_hash(Path(path)), sorted(items.runs), sorted(items.wholes), chosen)
    kept = folder / f"contamination-{key}.json"
    stored = read_intact(kept)
    if stored is None:
        stored = search(rows, items)
        write_checked(kept, stored)
    return stored


def row_texts(row: AnyRow) -> list[str]:
    """The prompt with each answer that a model reads in training."""
    answers: Sequence[str] = (row.answer,)
    if isinstance(row, Comparison):
        answers = (row.chosen, row.rejected)
    elif isinstance(row, SampledAnswers):
        answers = row.answers
    prompt = spoken(row.prompt)
    # an answer is never without its prompt, so that runs of words across both are found
    return [f"{prompt}\n{answer}" for answer in answers or ("",)]


def spoken(messages: Messages) -> str:
    """The text of messages without system messages, which many rows share."""
    return "\n".join(m.content for m in messages if m.role != "system")


def _whole(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str], size: int) -> list[str]:
    """Every run of `size` words, as a text."""
    # slices of one text are faster than joining each run
    text = " ".join(words)
    ends = list(accumulate(len(word) + 1 for word in words))
    return [text[a : b - 1] for a, b in zip([0, *ends], ends[size - 1 :], strict=False)]
