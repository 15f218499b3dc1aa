"""Sampling answers with numbers, choosing among them, and levels in prompts."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bezoar.chat.attribute_levels import attribute_text, parse_attributes, steered
from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message, SampledAnswers
from bezoar.errors import DataError, RecipeError
from bezoar.judge.attribute_stages import Steer
from bezoar.judge.best_of_n import BestOfN
from bezoar.model.completions import completion_logprobs, reward_completions
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights, Sampling
from bezoar.model.stack import Stack
from bezoar.synth.sampled_answers import Sample, level_chances, log_chance
from tests.helpers.loaded import loaded
from tests.helpers.toy_context import ToyContext

PROMPT = (Message("user", "hi"),)


@pytest.fixture(scope="module")
def stack(tiny_model: Path) -> Stack:
    made = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    made.add_adapter(LoRA(r=2), seed=0, outputs=("helpfulness", "verbosity"))
    return made


def sample(stack: Stack, seed: int = 0, **settings: Any) -> list[SampledAnswers]:
    stage = Sample(
        "s", "m", n=3, answers=Sampling(max_tokens=8, temperature=1.0, top_p=1.0), **settings
    )
    rows = [Chat(f"c{i}", (Message("user", "hello" * (i + 1)),)) for i in range(3)]
    return stage.sample(rows, ToyContext(lambda name: stack, seed=seed)).rows


def test_answers_have_the_numbers_that_their_text_gives(stack: Stack) -> None:
    levels = {"helpfulness": 4, "verbosity": 1}
    # the fresh adapter changes nothing
    plain = AutoModelForCausalLM.from_pretrained(stack.spec.path)
    rows = sample(
        stack, reward="r", goodness=RewardWeights({"verbosity": 2.0}), prior="p", attributes=levels
    )
    assert [row.id for row in rows] == ["c0", "c1", "c2"]
    for row in rows:
        assert row.prompt[0].content == "helpfulness:4,verbosity:1"
        assert len(set(row.answers)) > 1
        scored = reward_completions(stack, ChatML(), [row.prompt[1:]], [row.answers])[0]
        assert row.numbers["helpfulness"] == pytest.approx([v[0] for v in scored], abs=1e-5)
        assert row.numbers["reward"] == pytest.approx([2 * v[1] for v in scored], abs=1e-5)
        assert row.numbers["attribute_logprob"] == pytest.approx(
            [log_chance(levels, ("helpfulness", "verbosity"), v) for v in scored], abs=1e-3
        )
        ends = [[value == 1 for value in row.numbers["ended"]]]
        (sums,) = completion_logprobs(stack, ChatML(), [row.prompt[1:]], [row.answers], ended=ends)
        assert row.numbers["prior_logprob"] == pytest.approx(sums, abs=1e-4)
        rendered = ChatML().render(
            (*row.prompt[1:], Message("assistant", row.answers[0])), stack.tokenizer
        )
        start, end = rendered.answers[-1]
        net = plain(torch.tensor([rendered.tokens])).logits[0].log_softmax(-1)
        # the model did not write the end token of an answer that was cut off
        end -= row.numbers["ended"][0] == 0
        by_hand = sum(float(net[i - 1, rendered.tokens[i]].detach()) for i in range(start, end))
        assert row.numbers["prior_logprob"][0] == pytest.approx(by_hand, abs=1e-3)


def test_the_same_seed_draws_the_same_answers(stack: Stack) -> None:
    assert sample(stack) == sample(stack)
    assert [row.answers for row in sample(stack, seed=1)] != [row.answers for row in sample(stack)]


def test_a_model_without_a_head_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match="reward: the model r has no score head"):
        sample(Stack(ModelSpec(str(tiny_model), dtype="float32")), reward="r")


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0},
        {"answers": Sampling(temperature=0)},
        {"attributes": {"verbosity": 1}},
        {"attributes": {"verbosity": 1}, "prior": "p"},
        {"attributes": {"verbosity": 9}, "prior": "p", "reward": "r"},
        {"attributes": {"verbosity": -1}, "prior": "p", "reward": "r"},
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RecipeError), match=r"change|raise|add"):
        loaded(Sample("s", "m", **settings))


def test_chances_of_levels() -> None:
    # r = 3/4: the figures that midway bounds give for Beta(18, 6)
    assert [round(p, 3) for p in level_chances(3.0)] == [0, 0, 0.086, 0.855, 0.059]
    assert level_chances(1.0) == pytest.approx(level_chances(3.0)[::-1])
    assert sum(level_chances(9.0)) == pytest.approx(1)
    assert level_chances(9.0)[4] > 0.99
    both = log_chance({"a": 3, "b": 0}, ("a", "b"), (3.0, 3.0))
    assert both == pytest.approx(math.log(level_chances(3.0)[3]) + math.log(1e-8), abs=1e-6)


def test_the_best_and_the_worst() -> None:
    row = SampledAnswers("a", PROMPT, ("x", "y", "z"), {"reward": (1.0, 3.0, math.nan)})
    pair = BestOfN("r").sift([row]).rows[0]
    assert isinstance(pair, Comparison)
    assert (pair.chosen, pair.rejected, pair.meta["reward"]) == ("y", "x", [3.0, 1.0])
    chat = BestOfN("r", give="chats").sift([row]).rows[0]
    assert isinstance(chat, Chat)
    assert chat.answer == "y"
    mine = SampledAnswers("d", PROMPT, ("x",), {}, {"own": "mine"})
    assert BestOfN("r", give="own").sift([mine]).rows == [
        Comparison("d", PROMPT, "mine", "x", {"own": "mine"})
    ]
    assert [
        d.reason
        for d in BestOfN("r", give="own").sift([SampledAnswers("e", PROMPT, ("x",))]).dropped
    ] == ["no answer"]
    level = SampledAnswers("b", PROMPT, ("x", "y"), {"reward": (1.0, 1.0)})
    none = SampledAnswers("c", PROMPT, ("x", "y"), {"reward": (math.nan, math.nan)})
    assert [d.reason for d in BestOfN("r").sift([level, none]).dropped] == [
        "no difference",
        "no number",
    ]
    with pytest.raises(ValueError, match="by has no effect with give: own"):
        BestOfN("r", give="own", by="loudness")
    with pytest.raises(DataError, match="row c: it has no answers with a number 'loudness'"):
        BestOfN("r", by="loudness").sift([none])


def test_levels_stand_in_the_system_message() -> None:
    levels = {"verbosity": 1, "helpfulness": 4, "zest": 2}
    assert attribute_text(levels) == "helpfulness:4,verbosity:1,zest:2"
    assert (
        steered((Message("system", "Be kind."), *PROMPT), levels)[0].content
        == "Be kind.\nhelpfulness:4,verbosity:1,zest:2"
    )
    assert steered((Message("system", ""), *PROMPT), levels) == steered(PROMPT, levels)
    assert parse_attributes("helpfulness=4, verbosity=1") == {"helpfulness": 4, "verbosity": 1}
    with pytest.raises(RecipeError, match="'verbosity' is not NAME=LEVEL"):
        parse_attributes("helpfulness=4,verbosity")
    row = Chat("a", (*PROMPT, Message("assistant", "yes")), {"attributes": levels})
    found = Steer("r", only=("verbosity",)).sift([row, Chat("b", row.messages)])
    assert found.rows[0].messages[0].content == "verbosity:1"
    assert [d.reason for d in found.dropped] == ["no attributes"]
    for wrong in (
        {"verbosity": "1"},
        {"verbosity": 9},
        {"verbosity": math.nan},
        ["verbosity"],
        3,
        "verbosity",
        True,
    ):
        with pytest.raises(DataError, match=r"row a: meta.attributes is .*, not a table of levels"):
            Steer("r").sift([Chat("a", row.messages, {"attributes": wrong})])


def test_answers_are_kept_as_rows() -> None:
    row = SampledAnswers("a", PROMPT, ("x", "y"), {"reward": (1.0, 2.5)}, {"from": "b"})
    assert SampledAnswers.from_row(row.to_row()) == row


def test_a_reward_model_reads_answers_by_its_own_tokenizer(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A model whose tokens are numbered otherwise, with its embeddings in that order, gives the
    same rewards to the same texts."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    turned = json.loads(Tokenizer.from_file(str(tiny_model / "tokenizer.json")).to_str())
    vocabulary = turned["model"]["vocab"]
    turned["model"]["vocab"] = {token: len(vocabulary) - 1 - i for token, i in vocabulary.items()}
    other = tmp_path / "other"
    inner = Tokenizer.from_str(json.dumps(turned))
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>"
    ).save_pretrained(other)
    net = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights = net.get_input_embeddings().weight.data
    weights[: len(vocabulary)] = weights[: len(vocabulary)].flip(0)
    net.save_pretrained(other)
    stacks = []
    for folder in (tiny_model, other):
        stack = Stack(ModelSpec(str(folder), dtype="float32"))
        stack.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
        stacks.append(stack)
    texts = [["yes indeed", "no"]]
    assert stacks[0].tokenizer.encode("yes") != stacks[1].tokenizer.encode("yes")
    first, second = (reward_completions(stack, ChatML(), [PROMPT], texts)[0] for stack in stacks)
    assert [v[0] for v in first] == pytest.approx([v[0] for v in second], abs=1e-4)
    assert first[0][0] != pytest.approx(first[1][0], abs=1e-3)
