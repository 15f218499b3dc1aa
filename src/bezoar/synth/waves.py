"""Asking a teacher for many drafts at once, and again for those whose replies cannot be used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bezoar.chat.types import Messages
from bezoar.llm.repair import told
from bezoar.llm.types import Ask, Request, fault


@dataclass
class Wished:
    """A row on its way: `reason` says why it cannot be kept, `detail` shows what was written, and
    `dialogue` what the teacher was told of wrong replies."""

    id: str
    reason: str = field(default="", kw_only=True)
    detail: str = field(default="", kw_only=True)
    dialogue: Messages = field(default=(), kw_only=True)

    def tell(self, text: str, wrong: str) -> None:
        """The next attempt is told what was wrong with this one."""
        # only the teacher reads this: the row that is trained on has the right answer alone
        self.dialogue += told(text, wrong)


DraftT = TypeVar("DraftT", bound=Wished)


def ask_until(
    drafts: Sequence[DraftT],
    ask: Ask,
    retries: int,
    request: Callable[[DraftT, int], Request],
    read: Callable[[DraftT, str], str],
) -> None:
    """Ask for all drafts that are still good, and up to `retries` times for those whose reply is
    empty or cut, or cannot be used: `read` says why, which is then the draft's reason."""
    pending = [draft for draft in drafts if not draft.reason]
    for attempt in range(retries + 1):
        replies = ask([request(draft, attempt) for draft in pending]) if pending else []
        again = []
        for draft, reply in zip(pending, replies, strict=True):
            text = reply.text.strip()
            draft.detail = reply.error or text[:400]
            draft.reason = fault(reply) or read(draft, text)
            # what was refused would be refused again
            if draft.reason and reply.finish != "error":
                again.append(draft)
        pending = again
