"""Critiques and revisions of given answers, written by a teacher (CnR)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.row_types import RowType
from bezoar.chat.types import AnyRow, Chat, Comparison, Dropped, Filtered, Message
from bezoar.cost import Estimate, Quote
from bezoar.data.critiques import Revised, parse_critique, parse_revision, revision_chat, transcript
from bezoar.errors import DataError
from bezoar.llm.types import Ask
from bezoar.prompts import read_prompt, seal
from bezoar.references import FileRef
from bezoar.stage import Outputs
from bezoar.synth.scheme import Draft, Scheme


@dataclass(frozen=True)
class CritiqueRevise(Scheme):
    """A teacher criticises and revises each seed's answer, for a model that learns to do both.

    The response of a chat is its answer, and the teacher writes critique and revision. The response
    of a comparison is its rejected answer; the chosen one is the revision, and the teacher, which
    sees both, writes only the critique. A row is dropped if the teacher's reply is unusable, lacks
    one of the two parts, or repeats the response. The paper's rows were written by people and are
    not public: teacher and prompts are ours.

    Source: arXiv 2311.14543
    Example: {kind: critique_revise, seeds: pairs, teacher: teacher}
    """

    prompt: FileRef = "bezoar:critique_revise.txt"
    """Prompt file for chats, with {conversation} and {response}."""
    pair_prompt: FileRef = "bezoar:critique_pair.txt"
    """Prompt file for comparisons, with {revision} too; weak teachers: critique_pair_short.txt."""
    kind: Literal["critique_revise"] = "critique_revise"
    row_by_row = True

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """For each seed a row that asks for critique and revision; DataError for other seeds."""
        prompt = read_prompt(self.prompt, "conversation", "response")
        pair_prompt = read_prompt(self.pair_prompt, "conversation", "response", "revision")
        # The answers come back without their seeds; draft ids lead to chat and known revision.
        sources: dict[str, tuple[Chat, str]] = {}
        drafts, dropped = [], []
        for row in seeds:
            chat, revision = _response(row)
            # Chats that end with the user have nothing to criticise.
            if not chat.answer:
                dropped.append(Dropped(row.id, "no answer"))
                continue
            draft = self._draft(chat, pair_prompt if revision else prompt, revision)
            drafts.append(draft)
            sources[draft.id] = chat, revision
        replies = self.answer(drafts, ask, seed=seed)
        revised = Filtered.split(_row(reply, *sources[reply.id]) for reply in replies.rows)
        return Filtered(revised.rows, [*dropped, *replies.dropped, *revised.dropped])

    def _draft(self, chat: Chat, prompt: str, revision: str) -> Draft:
        conversation = transcript(chat.prompt)
        text = seal(prompt, conversation=conversation, response=chat.answer, revision=revision)
        meta = {**chat.meta, "scheme": self.kind, "seed": chat.id}
        return Draft(f"cnr-{chat.id}", (Message("user", text),), meta)

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats that carry what their seeds carried."""
        return rows[self.seeds].chats().adding("scheme")

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """One request for each seed, of which at least half are assumed to give a row."""
        seeds = rows[self.seeds]
        requests = self.quote_answers(seeds, 600)
        return Quote(seeds * Estimate(0.5, 0.8, 1), [(self.teacher, requests)])


def _response(row: AnyRow) -> tuple[Chat, str]:
    """The chat that ends in the response, and the revision if there is one already."""
    if isinstance(row, Comparison):
        return row.swap().as_chat(), row.chosen
    if isinstance(row, Chat):
        return row, ""
    raise DataError(
        f"row {row.id}: critique_revise reads chats or comparisons; choose among sampled answers"
        " first (kind: best_of_n)."
    )


def _row(reply: Chat, chat: Chat, revision: str) -> Chat | Dropped:
    if revision:
        revised = Revised(parse_critique(reply.answer), revision)
    else:
        parsed = parse_revision(reply.answer)
        if not isinstance(parsed, Revised):
            return Dropped(reply.id, parsed.why, reply.answer[:400])
        revised = parsed
    # A revision that changes nothing would teach the model to repeat the response.
    if revised.revision == chat.answer.strip():
        return Dropped(reply.id, "identical", revised.critique[:400])
    return revision_chat(reply.id, chat, revised, reply.meta)
