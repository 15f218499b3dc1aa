"""The label proof: what it lets through, leaves out, cuts and refuses."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from bezoar.chat.pieces import LossOn, Rendered
from bezoar.chat.templates import ChatML, OpenBezoarTemplate
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.train.label_check import check_labels
from bezoar.train.objectives import DPO, SFT
from tests.helpers.rows import chats, pairs

BYTES = ByteTokenizer()


def run(rows: list[Any], objective: Any = None, template: Any = None, **settings: Any) -> Any:
    return check_labels(
        rows,
        objective or SFT(),
        template or ChatML(),
        BYTES,
        **{"max_length": 1000, "too_long": "drop", **settings},
    )


@pytest.mark.parametrize("template", [ChatML(), ChatML(system="Be kind."), OpenBezoarTemplate()])
@pytest.mark.parametrize("objective", [SFT(), SFT(loss_on="all"), DPO()])
def test_good_rows_pass(template: Any, objective: Any) -> None:
    rows = pairs(6) if isinstance(objective, DPO) else [*chats(6), *pairs(2)]
    sifted = run(rows, objective, template)
    assert [item.id for item in sifted.rows] == [row.id for row in rows]
    assert not sifted.dropped


def test_long_rows_are_dropped_or_cut_and_counted() -> None:
    rows = [
        Chat("short", (Message("user", "a"), Message("assistant", "b"))),
        Chat("long", (Message("user", "a"), Message("assistant", "b" * 99))),
    ]
    dropped = run(rows, max_length=60)
    assert [item.id for item in dropped.rows] == ["short"]
    assert [(d.id, d.reason) for d in dropped.dropped] == [("long", "too long")]
    cut = run(rows, max_length=60, too_long="cut")
    assert [(item.id, item.cut) for item in cut.rows] == [("short", False), ("long", True)]
    assert cut.rows[1].group.longest == 60
    nothing = run(
        [Chat("long", (Message("user", "a" * 99), Message("assistant", "b")))],
        max_length=60,
        too_long="cut",
    )
    assert [d.reason for d in nothing.dropped] == ["nothing trained after the cut"]


def test_an_empty_answer_is_left_out_and_counted() -> None:
    pair = replace(pairs(1)[0], rejected=" ")
    assert [d.reason for d in run([pair, *pairs(2)], DPO()).dropped] == ["empty answer"]


def test_a_chat_without_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="row lost: no token of it would be trained"):
        run([Chat("lost", (Message("user", "a"),))])


@dataclass(frozen=True)
class Broken(ChatML):
    """A renderer with one of the faults that the proof is there for."""

    fault: str = ""

    def render(self, messages: Any, tokenizer: Any, *, loss_on: LossOn = "answer") -> Rendered:
        good = super().render(messages, tokenizer, loss_on=loss_on)
        tokens, trained = list(good.tokens), list(good.trained)
        if self.fault == "end":
            trained[good.answers[-1][1] - 1] = False
        elif self.fault == "late":
            trained[good.answers[-1][0]] = False
        elif self.fault == "nothing":
            trained = [False] * len(trained)
        elif self.fault == "bos" and tokens:
            tokens, trained = [257, 257, *tokens], [False, False, *trained]
        return Rendered(tokens, trained, good.answers)

    def prompt(self, messages: Any, tokenizer: Any, *, prefill: str = "") -> list[int]:
        good = ChatML().prompt(messages, tokenizer, prefill=prefill)
        return (
            [257, 257, *good]
            if self.fault == "bos"
            else [*good, 32]
            if self.fault == "space"
            else good
        )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("end", "the token that ends answer 1 is not trained"),
        ("late", "not every token of answer 1 is trained"),
        ("nothing", "no token of it would be trained"),
        ("bos", "beginning-of-sequence token stands in it twice"),
        ("space", "not those of the generation prompt"),
    ],
)
def test_a_renderer_that_breaks_the_law_is_refused(fault: str, says: str) -> None:
    with pytest.raises(DataError, match=f"row chat-0: .*{says}"):
        run(chats(1), template=Broken(fault=fault))


def test_the_message_shows_what_is_trained() -> None:
    with pytest.raises(DataError, match="⟦"):
        run(chats(1), template=Broken(fault="end"))
