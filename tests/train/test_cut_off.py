"""Answers that were cut off: their end token is nowhere trained, nor part of a log-probability."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML, OpenBezoarTemplate, Template
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import AnyRow, Chat, Comparison, Message, SampledAnswers, as_chats, ended
from bezoar.errors import DataError
from bezoar.judge.attribute_stages import AttributePairs
from bezoar.judge.best_of_n import BestOfN
from bezoar.train.label_check import check_labels
from bezoar.train.objectives import (
    ASFT,
    DPO,
    IPO,
    KTO,
    ORPO,
    SFT,
    BradleyTerry,
    Hinge,
    Regression,
    SimPO,
    SteerLM2,
)
from tests.helpers.toy_context import ToyContext

BYTES = ByteTokenizer()
PROMPT = (Message("user", "hi"),)
NUMBERS = {"attribute_logprob": (-1.0, -2.0), "prior_logprob": (-3.0, -4.0)}
SAMPLED = SampledAnswers("s", PROMPT, ("one", "two"), {**NUMBERS, "ended": (1.0, 0.0)})
PAIR = Comparison("p", PROMPT, "one", "two", {"ended": [True, False]})
LONG_CHAT = (*PROMPT, Message("assistant", "one"), Message("user", "and"))
CHAT = Chat("c", (*LONG_CHAT, Message("assistant", "two")), {"ended": False, "desirable": True})


def groups(row: AnyRow, objective: Any, template: Template) -> Any:
    found = check_labels([row], objective, template, BYTES, max_length=1000, too_long="drop")
    assert not found.dropped
    return found.rows[0].group


@pytest.mark.parametrize("template", [ChatML(), OpenBezoarTemplate()], ids=lambda t: t.kind)
@pytest.mark.parametrize(
    ("objective", "row"),
    [
        *((pairs, PAIR) for pairs in (DPO(), IPO(), Hinge(), SimPO(), ORPO(), ASFT(), KTO())),
        (SteerLM2(), SAMPLED),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_no_end_token_of_a_cut_answer_is_in_the_loss(
    objective: Any, row: AnyRow, template: Template
) -> None:
    whole, cut = groups(row, objective, template).completions
    assert whole.tokens == [*BYTES.encode("one"), template.end(BYTES)]
    assert cut.tokens == BYTES.encode("two")
    assert all(whole.trained)
    assert all(cut.trained)


@pytest.mark.parametrize("template", [ChatML(), OpenBezoarTemplate()], ids=lambda t: t.kind)
@pytest.mark.parametrize("loss_on", ["answer", "last", "all"])
def test_a_chat_loses_its_last_end_token_alone(loss_on: Any, template: Template) -> None:
    group = groups(CHAT, SFT(loss_on), template)
    (completion,) = group.completions
    assert BYTES.decode(completion.tokens).endswith("two")
    assert completion.tokens[-1] == ord("o")
    ends = [*group.prompt, *completion.tokens].count(template.end(BYTES))
    as_whole = groups(Chat("c", CHAT.messages), SFT(loss_on), template)
    whole = [*as_whole.prompt, *as_whole.completions[0].tokens].count(template.end(BYTES))
    assert ends == whole - 1
    (kto,) = groups(CHAT, KTO(), template).completions
    assert kto.tokens == BYTES.encode("two")


def test_a_score_is_read_behind_the_end_token_of_every_answer() -> None:
    """Reward models read every answer closed, in training as in use."""
    end = ChatML().end(BYTES)
    for completion in groups(PAIR, BradleyTerry(), ChatML()).completions:
        assert completion.tokens[-2:] == [end, end]
    labelled = Chat("c", CHAT.messages, {"ended": False, "attributes": {"helpfulness": 3}})
    (one,) = groups(labelled, Regression(attributes=("helpfulness",)), ChatML()).completions
    assert one.tokens[-2:] == [end, end]


@dataclass(frozen=True)
class TrainsTheEnd(DPO):
    """An objective that forgets what was cut off."""

    def group(self, row: Any, template: Any, tokenizer: Any) -> Any:
        return super().group(
            Comparison(row.id, row.prompt, row.chosen, row.rejected), *(template, tokenizer)
        )


def test_the_label_check_refuses_an_end_token_that_nobody_wrote() -> None:
    with pytest.raises(DataError, match="behind answer 1, which was cut off"):
        groups(PAIR, TrainsTheEnd(), ChatML())


@pytest.mark.parametrize("said", ["no", None, [1, 0, 1], {"a": 0}, float("nan")])
def test_what_says_nothing_of_the_end_has_ended(said: Any) -> None:
    assert ended(Comparison("p", PROMPT, "a", "b", {"ended": said})) == (True, True)
    assert ended(Chat("c", CHAT.messages, {"ended": said})) == (True,)


def test_a_pair_keeps_who_was_cut_off() -> None:
    assert ended(PAIR.swap()) == (False, True)
    assert PAIR.swap().swap() == PAIR
    assert [ended(chat) for chat in as_chats([PAIR, PAIR.swap()])] == [(True,), (False,)]
    assert ended(Comparison.from_row(PAIR.to_row())) == (True, False)


def sampled(rewards: tuple[float, ...], ends: tuple[float, ...]) -> SampledAnswers:
    texts = tuple("abcdefgh"[: len(rewards)])
    return SampledAnswers("s", PROMPT, texts, {"reward": rewards, "ended": ends}, {"own": "mine"})


def test_best_of_n_prefers_no_answer_that_was_cut_off() -> None:
    row = sampled((1.0, 2.0, 9.0, 0.0), (1.0, 1.0, 0.0, 0.0))
    (chat,) = BestOfN("r", give="chats").sift([row]).rows
    assert (chat.answer, "ended" in chat.meta) == ("b", False)
    (pair,) = BestOfN("r").sift([row]).rows
    assert (pair.chosen, pair.rejected, ended(pair)) == ("b", "d", (True, False))
    (dropping,) = BestOfN("r", cut_off="drop").sift([row]).rows
    assert (dropping.chosen, dropping.rejected, ended(dropping)) == ("b", "a", (True, True))
    # a cut answer with the higher reward is no worse answer either
    found = BestOfN("r").sift([sampled((1.0, 9.0), (1.0, 0.0))])
    assert [d.reason for d in found.dropped] == ["no difference"]


def test_where_all_were_cut_off_none_has_an_end_token_or_the_row_is_dropped() -> None:
    row = sampled((1.0, 2.0), (0.0, 0.0))
    (chat,) = BestOfN("r", give="chats").sift([row]).rows
    assert (chat.answer, ended(chat)) == ("b", (False,))
    assert groups(chat, SFT(), ChatML()).completions[0].tokens == BYTES.encode("b")
    (own,) = BestOfN("r", give="own").sift([row]).rows
    assert (own.chosen, own.rejected, ended(own)) == ("mine", "a", (True, False))
    for give in ("chats", "pairs", "own"):
        found = BestOfN("r", give=give, cut_off="drop").sift([row])  # type: ignore[arg-type]
        assert [d.reason for d in found.dropped] == ["cut off"]
    later = sampled((1.0, 2.0), (0.0, 1.0))
    (own,) = BestOfN("r", give="own", cut_off="drop").sift([later]).rows
    assert (own.rejected, ended(own)) == ("b", (True, True))


def test_pairs_by_attributes_know_what_was_cut_off() -> None:
    def labelled(name: str, level: int, **meta: Any) -> Chat:
        messages = (*PROMPT, Message("assistant", name))
        return Chat(name, messages, {"attributes": {"helpfulness": level}, **meta})

    (pair,) = AttributePairs("r").sift([labelled("a", 4), labelled("b", 1, ended=False)]).rows
    assert (pair.chosen, ended(pair)) == ("a", (True, False))


def test_an_evaluation_reads_no_end_token_that_was_cut_off(tiny_model: Path) -> None:
    from bezoar.evals.preferences import Preferences
    from bezoar.model.completions import completion_logprobs
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    outcome = Preferences("rows").measure([PAIR], stack, None, ChatML())
    (cut,) = completion_logprobs(stack, ChatML(), [PROMPT], [["one", "two"]], ended=[[True, False]])
    (whole,) = completion_logprobs(stack, ChatML(), [PROMPT], [["one", "two"]])
    assert cut[0] == pytest.approx(whole[0], abs=1e-4)
    assert cut[1] > whole[1] + 1
    margins = {item["benchmark"]: item["value"] for item in outcome.items}
    assert margins["preferences/log-prob margin"] == pytest.approx(cut[0] - cut[1], abs=1e-3)
    per_token = cut[0] / 4 - cut[1] / 3
    assert margins["preferences/log-prob per token margin"] == pytest.approx(per_token, abs=1e-3)


def test_a_prompt_with_an_answer_that_was_cut_off_can_be_dropped(tiny_model: Path) -> None:
    from bezoar.model.spec import ModelSpec, Sampling
    from bezoar.model.stack import Stack
    from bezoar.synth.sampled_answers import Sample

    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    rows = [Chat(f"c{i}", (Message("user", f"say {i}"),)) for i in range(30)]
    how = Sampling(max_tokens=60, temperature=1.0, top_p=1.0)
    context = ToyContext(lambda name: stack)
    kept = Sample("s", "m", n=2, answers=how).sample(rows, context).rows
    cut = [row.id for row in kept if not all(row.numbers["ended"])]
    assert 0 < len(cut) < 30
    found = Sample("s", "m", n=2, answers=how, cut_off="drop").sample(rows, context)
    assert [d.id for d in found.dropped if d.reason == "cut off"] == cut
    assert [row.id for row in found.rows] == [row.id for row in kept if row.id not in cut]
