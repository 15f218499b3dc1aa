"""IFEval (arXiv 2311.07911): instructions whose keeping a program can check.

The programs are LM-Eval-Harness's own, and so are the scores' names: strict looks at the answer as
it is, loose also at it without its first or last line and without asterisks; a prompt counts if all
its instructions are kept, and each instruction by itself.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bezoar.bounds import Count
from bezoar.chat.types import Message, Messages
from bezoar.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, column, read_file
from bezoar.errors import RecipeError
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.section import Section, item_rows
from bezoar.evals.stats import clustered_score, score
from bezoar.io import Row, content_hash
from bezoar.llm.types import Request
from bezoar.references import FileRef

NAME = "IFEval"
LEVELS = ("strict", "loose")
Kept = list[bool] | None
"""Whether each instruction of a prompt is kept; None if one cannot be checked."""


@dataclass(frozen=True)
class Instructed:
    """A prompt with the instructions in it, by the harness's names, and their arguments."""

    id: str
    prompt: Messages
    instructions: tuple[str, ...]
    arguments: tuple[dict[str, Any], ...]
    at: RowOrigin


@dataclass(frozen=True)
class IFEval(Section):
    """How often the model keeps instructions that a program can check: strict and loose, by prompt
    and by instruction.

    Source: arXiv 2311.07911; checked by LM-Eval-Harness's programs for its task ifeval
    Example: {file: "hub:google/IFEval/train", limit: 100}
    """

    file: FileRef = "hub:google/IFEval/train"
    """The prompts: columns key, prompt, instruction_id_list, kwargs."""
    limit: Count | None = None
    """Number of prompts, the first ones; null for all."""
    max_tokens: Count = 1280
    """Most tokens of an answer; 1,280 is the harness's own."""

    def load(self) -> list[Instructed]:
        """The prompts that are asked."""
        return read_ifeval(locate_file(self.file, Path(), "ifeval.file"))[: self.limit]

    def prompts(self) -> dict[str, Messages]:
        """Key -> what is asked."""
        return {item.id: item.prompt for item in self.load()}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Greedy answers of the named model, checked; the journal keeps them."""
        items, check = self.load(), Checks()
        # before anything is asked, which takes hours, or money
        for item in items:
            check.build(item)
        requests = [Request(item.prompt, max_tokens=self.max_tokens) for item in items]
        replies = context.ask_model(model)(requests)
        # a failed request is no answer that keeps nothing
        answers = [None if reply.finish == "error" else reply.text for reply in replies]
        outcome = check.outcome(items, answers)
        form = "the endpoint's" if context.answers_only else repr(context.template)
        same = {"prompt format": form, "answer tokens": self.max_tokens, "sentences": check.counts}
        asked = [[item.id, item.prompt[-1].content, item.arguments] for item in items]
        facts = outcome.info["ifeval"]
        same |= {"items": content_hash(asked), "version": facts["version"]}
        facts["conditions"] = {NAME: same}
        return outcome + Outcome(texts={NAME: [(i.id, i.prompt[-1].content, "") for i in items]})

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """The answers of the model itself."""
        items = self.load()
        tokens = sum(text_tokens(item.prompt[-1].content) for item in items) / max(1, len(items))
        answer = Estimate(self.max_tokens * 0.1, self.max_tokens * 0.3, self.max_tokens)
        return [("", RequestEstimate(exactly(len(items)), exactly(tokens), answer))]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """By prompt."""
        return {NAME: detectable(len(self.load()))}


def read_ifeval(path: Path) -> list[Instructed]:
    """The prompts of a file in its order. DataError names file and line."""
    items: list[Instructed] = []
    for at, row in read_file(path, path.stem):
        names, arguments = (column(row, key, at) for key in ("instruction_id_list", "kwargs"))
        # the programs and their arguments go by position
        listed = isinstance(names, list) and isinstance(arguments, list) and names
        if not listed or len(names) != len(arguments):
            raise at.wrong("instruction_id_list and kwargs are no lists of one length; mend them.")
        if not all(isinstance(table, dict | None) for table in arguments):
            raise at.wrong("kwargs holds what is no table of arguments; mend it.")
        # a column of tables has every key of all of them, empty where it is another's
        tables = [{k: v for k, v in (table or {}).items() if v} for table in arguments]
        # as it stands: an instruction to repeat the prompt counts its every letter
        asked = column(row, "prompt", at)
        if not isinstance(asked, str) or not asked.strip():
            raise at.wrong("the prompt is no text; mend it.")
        prompt, key = (Message("user", asked),), str(column(row, "key", at))
        items.append(Instructed(key, prompt, tuple(map(str, names)), tuple(tables), at))
    return items


class Checks:
    """The harness's programs. RecipeError without the packages they need."""

    def __init__(self) -> None:
        try:
            # on import they would fetch NLTK's model of sentences, and speak of it
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                import langdetect
                from lm_eval.tasks.ifeval import instructions_registry, utils
        except ImportError as error:
            what = f"its checks need the package {error.name}"
            raise RecipeError(f"ifeval: {what}; pip install 'bezoar[eval]'.") from None
        # it draws at random, and would give other languages at another time
        langdetect.DetectorFactory.seed = 0
        self.programs: Mapping[str, Any] = instructions_registry.INSTRUCTION_DICT
        self.utils = utils
        self.counts = "counted" if _has_sentences() else "not counted"

    def build(self, item: Instructed) -> None:
        """DataError for an instruction that there is not, or with wrong arguments."""
        for name, arguments in zip(item.instructions, item.arguments, strict=True):
            if name not in self.programs:
                raise item.at.wrong(f"no instruction is named {name!r}; mend it.")
            try:
                self.programs[name](name).build_description(**arguments)
            except (TypeError, ValueError, LookupError) as error:
                raise item.at.wrong(f"{name} cannot be checked ({error}); mend kwargs.") from None

    def kept(self, item: Instructed, answer: str, level: str) -> Kept:
        """Whether `answer` keeps each instruction, strict or loose."""
        asked = self.utils.InputExample(
            item.id, list(item.instructions), item.prompt[-1].content, list(item.arguments)
        )
        # the harness's names begin as a test's do, which pytest would collect if imported by name
        check = getattr(self.utils, f"test_instruction_following_{level}")
        try:
            return [bool(kept) for kept in check(asked, answer).follow_instruction_list]
        except LookupError:  # NLTK's model of sentences is not there
            return None

    def outcome(self, items: Sequence[Instructed], answers: Sequence[str | None]) -> Outcome:
        """The four scores, a value by item, and how often each kind of instruction is kept."""
        outcome, ids = Outcome(), [item.id for item in items]
        kinds: dict[str, Row] = {}
        for level in LEVELS:
            table = [
                None if answer is None else self.kept(item, answer, level)
                for item, answer in zip(items, answers, strict=True)
            ]
            whole = [None if own is None else float(all(own)) for own in table]
            name = f"{NAME}/prompt_level_{level}_acc"
            outcome += Outcome([score(name, whole)], item_rows(name, ids, whole))
            # resampled by prompt: instructions of one answer are kept or not together
            parts = [[None] if own is None else list(map(float, own)) for own in table]
            means = [None if own is None else sum(own) / len(own) for own in table]
            name = f"{NAME}/inst_level_{level}_acc"
            figure = clustered_score(name, parts, share=True)
            outcome += Outcome([figure], item_rows(name, ids, means))
            kinds[level] = _by_kind(items, table)
        unchecked = sum(
            own is None and answer is not None for own, answer in zip(whole, answers, strict=True)
        )
        facts: Row = {"kinds": kinds, "version": version("lm_eval"), "unchecked": unchecked}
        # in lm-eval itself such an answer ends the whole evaluation
        if unchecked:
            why = "NLTK's punkt_tab is not here (python -m nltk.downloader punkt_tab)"
            told = f"{NAME}: sentences cannot be counted in {unchecked} answers: {why}."
            facts["remarks"] = [told]
        return outcome + Outcome(info={"ifeval": facts})


def _by_kind(items: Sequence[Instructed], table: Sequence[Kept]) -> Row:
    """Instruction -> [kept, of how many]."""
    kept, num = Counter[str](), Counter[str]()
    for item, own in zip(items, table, strict=True):
        for name, is_kept in zip(item.instructions, own or (), strict=False):
            num[name] += 1
            kept[name] += is_kept
    return {name: [kept[name], num[name]] for name in sorted(num)}


def _has_sentences() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True
