"""Critiques and revisions of given answers (CnR, arXiv 2311.14543), written by a teacher; the rows
train one model to do both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Filtered, Message
from bezoar.cost import Estimate, Quote
from bezoar.data.critiques import Revised, parse_critique, parse_revision, revision_chat, transcript
from bezoar.errors import DataError
from bezoar.llm.types import Ask
from bezoar.model.spec import Sampling
from bezoar.prompts import read_prompt, seal
from bezoar.references import FileRef
from bezoar.synth.answering import Draft, answer, quote_answers
from bezoar.synth.scheme import Scheme


@dataclass(frozen=True)
class CritiqueRevise(Scheme):
    """Recipe keys. A seed that is a chat gives its answer as the response, and the teacher writes
    critique and revision; of a comparison the rejected answer is the response and the chosen one
    the revision, and the teacher, which sees both, writes the critique alone.

    The paper's rows were written by people and are not public; all of this is ours. A row is
    dropped, and counted, when the teacher's reply failed, is empty or was cut (after `retries`),
    does not hold both parts, or repeats the response.
    """

    prompt: FileRef = "bezoar:critique_revise.txt"
    pair_prompt: FileRef = "bezoar:critique_pair.txt"
    retries: int = 1
    answers: Sampling = field(default_factory=Sampling)
    kind: Literal["critique_revise"] = "critique_revise"

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """A row of question and critique with revision a seed; `meta` has the seed. DataError for
        seeds of another kind."""
        prompt = read_prompt(self.prompt, "conversation", "response")
        pair_prompt = read_prompt(self.pair_prompt, "conversation", "response", "revision")
        given: dict[str, tuple[Chat, str]] = {}
        drafts, dropped = [], []
        for item in seeds:
            chat, revision = _response(item)
            if not chat.answer:
                dropped.append(Dropped(item.id, "no answer"))
                continue
            draft = self._draft(chat, pair_prompt if revision else prompt, revision)
            drafts.append(draft)
            given[draft.id] = chat, revision
        done = answer(drafts, ask, self.answers, seed=seed, retries=self.retries)
        made = [_row(reply, *given[reply.id]) for reply in done.rows]
        rows = [row for row in made if isinstance(row, Chat)]
        return Filtered(
            rows, [*dropped, *done.dropped, *(row for row in made if isinstance(row, Dropped))]
        )

    def _draft(self, chat: Chat, text: str, revision: str) -> Draft:
        said = seal(
            text, conversation=transcript(chat.prompt), response=chat.answer, revision=revision
        )
        return Draft(
            f"cnr-{chat.id}",
            (Message("user", said),),
            {**chat.meta, "scheme": self.kind, "seed": chat.id},
        )

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give (a half at least, we take it), and calls: one a seed."""
        seeds = rows[self.seeds]
        calls = quote_answers(seeds, 600, self.answers, self.retries)
        return Quote(seeds * Estimate(0.5, 0.8, 1), [(self.teacher, calls)])


def _response(item: AnyRow) -> tuple[Chat, str]:
    """The chat that ends in the response, and the revision where it is known."""
    if isinstance(item, Comparison):
        return item.swap().as_chat(), item.chosen
    if isinstance(item, Chat):
        return item, ""
    raise DataError(
        f"row {item.id}: critique_revise reads chats or comparisons; choose among sampled answers"
        " first (kind: best_of_n)."
    )


def _row(reply: Chat, chat: Chat, revision: str) -> Chat | Dropped:
    found = (
        Revised(parse_critique(reply.answer), revision)
        if revision
        else parse_revision(reply.answer)
    )
    if not isinstance(found, Revised):
        return Dropped(reply.id, found.why, reply.answer[:400])
    if found.revision == chat.answer.strip():
        return Dropped(reply.id, "identical", found.critique[:400])
    return revision_chat(reply.id, chat, found, reply.meta)
