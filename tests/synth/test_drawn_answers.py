"""Which answers are drawn, kept and dropped, from which model, and what is known of those that do
not fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Filtered, Message, SampledAnswers
from bezoar.errors import DataError, RecipeError
from bezoar.model.completions import completion_logprobs, draw_completions, reward_completions
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights, Sampling
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.synth.sampled_answers import Sample
from tests.helpers.loaded import loaded
from tests.helpers.toy_context import ToyContext


@dataclass
class Heard(Progress):
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True)
class Stopping(ChatML):
    """A template whose answers end at vowels."""

    def stops(self) -> tuple[str, ...]:
        return ("a", "e", "i", "o", "u")


def user(text: str) -> tuple[Message]:
    return (Message("user", text),)


def stack_of(model: Path, seed: int, *outputs: str) -> Stack:
    stack = Stack(ModelSpec(str(model), dtype="float32"))
    torch.manual_seed(seed)
    for parameter in stack.add_adapter(LoRA(r=2, dropout=0.0), seed=seed, outputs=outputs).values():
        parameter.data.normal_(0, 0.1)
    return stack


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> dict[str, Stack]:
    return {
        "student": stack_of(tiny_model, 1),
        "judge": stack_of(tiny_model, 2, "zest"),
        "before": stack_of(tiny_model, 3),
    }


def sample(
    models: dict[str, Stack],
    rows: Sequence[Any],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    tokens: int = 4,
    **settings: Any,
) -> Filtered[SampledAnswers]:
    stage = Sample(
        "rows",
        "student",
        answers=Sampling(max_tokens=tokens, temperature=1.0, top_p=1.0),
        **settings,
    )
    context = ToyContext(models.__getitem__, progress or Heard("drawn"), seed=seed)
    return stage.sample(rows, context)


def test_what_is_dropped_is_told(models: dict[str, Stack]) -> None:
    rows = [Chat(f"c{i}", user(f"say {i}")) for i in range(250)] + [Chat("long", user("x" * 600))]
    how = Sampling(max_tokens=1, temperature=1.0, top_p=1.0)
    texts = draw_completions(
        models["student"], ChatML(), [row.messages for row in rows[:250]], how, num=1, seed=5
    )
    blank = [
        row.id for row, found in zip(rows, texts, strict=False) if found and not found[0][0].strip()
    ]
    assert 0 < len(blank) < 50
    progress = Heard("drawn")
    found = sample(models, rows, seed=5, progress=progress, tokens=1, n=1)
    assert [(d.id, d.reason) for d in found.dropped] == [
        *((name, "empty answer") for name in blank),
        ("long", "too long"),
    ]
    assert [row.id for row in found.rows] == [row.id for row in rows[:250] if row.id not in blank]
    ended = sum(row.numbers["ended"][0] for row in found.rows)
    assert progress.said == [f"  drawn: {250 - len(blank)} answers, {ended:.0f} of them ended"]
    two = Heard("drawn")
    sample(models, rows[:3], progress=two, n=2)
    assert two.said[0].startswith("  drawn: 6 answers, ")


def test_an_empty_answer_among_several_drops_its_prompt(models: dict[str, Stack]) -> None:
    rows = [Chat(f"c{i}", user(f"say {i}")) for i in range(60)]
    found = sample(models, rows, tokens=1, n=3)
    assert {d.reason for d in found.dropped} == {"empty answer"}
    assert len(found.rows) + len(found.dropped) == 60
    assert all(text.strip() for row in found.rows for text in row.answers)


def test_an_answer_of_its_own_and_who_said_what(models: dict[str, Stack]) -> None:
    row = Chat("c", (*user("hi"), Message("assistant", "mine")))
    (found,) = sample(models, [row], n=2).rows
    assert (found.id, found.prompt, found.meta) == ("c", user("hi"), {"own": "mine"})
    assert list(found.numbers) == ["ended"]
    (found,) = sample(models, [row], n=2, reward="judge", prior="before").rows
    assert found.numbers["zest"] == found.numbers["reward"]
    assert found.numbers["zest"] == pytest.approx(
        [
            v[0]
            for v in reward_completions(models["judge"], ChatML(), [user("hi")], [found.answers])[0]
        ],
        abs=1e-5,
    )
    ends = [[value == 1 for value in found.numbers["ended"]]]
    (sums,) = completion_logprobs(
        models["before"], ChatML(), [user("hi")], [found.answers], ended=ends
    )
    assert found.numbers["prior_logprob"] == pytest.approx(sums, abs=1e-4)
    (told,) = sample(
        models, [row], n=2, reward="judge", prior="before", attributes={"zest": 0}
    ).rows
    assert told.prompt == (Message("system", "zest:0"), *user("hi"))


def test_an_answer_that_the_reward_model_cannot_read(models: dict[str, Stack]) -> None:
    """Its end token is read beside it, so an answer that fills the context is too long by one."""
    room = 512 - len(ChatML().prompt(user(""), models["student"].tokenizer))
    rows = [Chat("full", user("x" * (room - 4))), Chat("short", user("x"))]
    found = sample(
        models, rows, n=2, reward="judge", goodness=RewardWeights({"zest": 2.0}, mean=1.0)
    )
    assert [row.id for row in found.rows] == ["full", "short"]
    assert all(
        math.isnan(value) for name in ("zest", "reward") for value in found.rows[0].numbers[name]
    )
    assert found.rows[1].numbers["reward"] == pytest.approx(
        [2 * value - 1 for value in found.rows[1].numbers["zest"]]
    )
    # with levels the model is told more than the reward model reads: fill the reward model's
    # context by the answer alone
    other = dict(models, judge=models["judge"])
    text = [["y" * (room - 3)], ["y" * (room - 2)], ["y" * (room - 1)]]
    scores = reward_completions(other["judge"], ChatML(), [user("")] * 3, text)
    assert [math.isnan(score[0][0]) for score in scores] == [False, False, True]
    assert [len(score) for score in scores] == [1, 1, 1]
    several = reward_completions(
        other["judge"], ChatML(), [user(""), user("a")], [["y" * 500, "z", "w"], ["z"]]
    )
    assert [[math.isnan(v) for (v,) in each] for each in several] == [[True] * 3, [False]]


class Short:
    """A tokenizer for the judge that makes three tokens of each but a lone one, so that it cannot
    read what the student wrote."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str, *, markers: bool = False, after: str = "") -> list[int]:
        tokens = self.inner.encode(text, markers=markers, after=after)
        return [token for token in tokens for _ in range(1 if len(tokens) == 1 else 3)]


def test_with_levels_such_an_answer_drops_its_prompt(
    tiny_model: Path, models: dict[str, Stack]
) -> None:
    judge = stack_of(tiny_model, 2, "zest")
    judge.tokenizer = Short(judge.tokenizer)  # type: ignore[assignment]
    rows = [Chat("a", user("x" * 20)), Chat("b", user("x" * 300)), Chat("c", user("x"))]
    found = sample(
        dict(models, judge=judge), rows, n=2, reward="judge", prior="before", attributes={"zest": 4}
    )
    assert [row.id for row in found.rows] == ["a", "c"]
    assert [(d.id, d.reason) for d in found.dropped] == [("b", "too long for the reward model")]
    assert [len(row.answers) for row in found.rows] == [2, 2]


def test_a_reward_model_without_an_asked_output_is_named(models: dict[str, Stack]) -> None:
    both = dict(models, judge=stack_of(Path(models["judge"].spec.path), 2, "zest", "wit"))
    with pytest.raises(
        RecipeError,
        match=r"^attributes: the reward model judge has no output humour; it has zest, wit\.$",
    ):
        sample(
            both,
            [Chat("c", user("hi"))],
            reward="judge",
            prior="before",
            attributes={"zest": 1, "humour": 2},
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be greater than or equal to 1 but is 0; change the value"),
        (
            {"n": 2, "answers": Sampling(temperature=0)},
            "answers.temperature 0 gives n equal answers; raise it",
        ),
        (
            {"attributes": {"a": 1}, "reward": "r"},
            "attributes, for steerlm2, need reward and prior; add them",
        ),
        (
            {"attributes": {"a": 1, "b": 5}, "prior": "p", "reward": "r"},
            "attributes.b must be less than or equal to 4 but is 5; change the value",
        ),
        (
            {"goodness": RewardWeights(std=2.0)},
            "goodness has no effect without a reward model; remove it",
        ),
    ],
)
def test_settings_without_sense_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RecipeError)) as error:
        loaded(Sample("s", "m", **settings))
    assert message in str(error.value).replace(": must", " must")


def test_settings_at_their_bounds() -> None:
    assert Sample("s", "m", n=1, answers=Sampling(temperature=0)).n == 1
    assert Sample("s", "m", attributes={"a": 0, "b": 4}, prior="p", reward="r").attributes == {
        "a": 0,
        "b": 4,
    }


FREE = Sampling(max_tokens=8, temperature=1.0, top_p=1.0)


def texts_of(
    stack: Stack, prompts: Sequence[str], how: Sampling = FREE, **settings: Any
) -> list[list[tuple[str, bool]] | None]:
    return draw_completions(
        stack,
        settings.pop("template", ChatML()),
        [user(p) for p in prompts],
        how,
        **{"num": 1, "seed": 0, **settings},
    )


def test_a_draw_depends_on_seed_prompt_and_number(models: dict[str, Stack]) -> None:
    student = models["student"]
    both = texts_of(student, ["one", "two"], num=3)
    assert both[1] == texts_of(student, ["two"], num=3)[0]  # not on its neighbours
    assert texts_of(student, ["two"], num=1)[0] == both[1][:1]  # type: ignore[index]
    # so hot that all tokens are nearly alike: what is drawn says what the draws were, not the
    # prompt
    hot = Sampling(max_tokens=6, temperature=1e4, top_p=1.0)
    drawn = [
        tuple(found)
        for seed in (0, 1)
        for found in texts_of(student, ["one", "two"], hot, num=2, seed=seed)
    ]  # type: ignore[arg-type]
    assert len({text for found in drawn for text in found}) == 8


def test_temperature_and_nucleus_are_those_of_the_recipe(models: dict[str, Stack]) -> None:
    student = models["student"]
    greedy = texts_of(student, ["one"], Sampling(max_tokens=8, temperature=0.0), num=2)
    assert greedy[0][0] == greedy[0][1]  # type: ignore[index]
    assert (
        texts_of(student, ["one"], Sampling(max_tokens=8, temperature=1.0, top_p=1e-6), num=2)
        == greedy
    )
    assert (
        texts_of(student, ["one"], Sampling(max_tokens=8, temperature=1e-3, top_p=1.0), num=2)
        == greedy
    )


def test_an_answer_has_ended_where_more_room_changes_nothing(models: dict[str, Stack]) -> None:
    prompts = [f"say {i}" for i in range(150)]
    short, longer = (
        texts_of(models["student"], prompts, Sampling(max_tokens=n, temperature=1.0, top_p=1.0))
        for n in (8, 16)
    )
    ended = [one == two for one, two in zip(short, longer, strict=True)]
    assert ended == [found[0][1] for found in short]  # type: ignore[index]
    assert 0 < sum(ended) < 50


def test_an_answer_stops_at_the_strings_of_the_template(models: dict[str, Stack]) -> None:
    prompts = [f"say {i}" for i in range(20)]
    how = Sampling(max_tokens=60, temperature=1.0, top_p=1.0)
    plain, stopped = (
        texts_of(models["student"], prompts, how),
        texts_of(models["student"], prompts, how, template=Stopping()),
    )
    cut = 0
    for (one,), (two,) in zip(plain, stopped, strict=True):  # type: ignore[misc]
        first = min(
            (one[0].find(vowel) for vowel in "aeiou" if vowel in one[0]), default=len(one[0])
        )
        assert two == (one[0][:first], first < len(one[0]) or one[1])
        cut += first < len(one[0])
    assert cut > 5


def test_a_prompt_without_room_has_no_answers(models: dict[str, Stack]) -> None:
    found = texts_of(models["student"], ["hi", "x" * 600, "ho"], num=2)
    assert [each is None for each in found] == [False, True, False]


def test_the_likelihood_of_what_was_cut_off_leaves_its_end_out(models: dict[str, Stack]) -> None:
    stack = models["before"]
    prompts, texts = [user("hi"), user("ho")], [["yes", "", "n"], ["no"]]
    whole, cut = (
        completion_logprobs(stack, ChatML(), prompts, texts),
        completion_logprobs(stack, ChatML(), prompts, texts, ended=[False, True]),
    )
    assert [len(values) for values in whole] == [3, 1]
    for i, prompt in enumerate(prompts):
        trunk = ChatML().prompt(prompt, stack.tokenizer)
        for text, value, short in zip(texts[i], whole[i], cut[i], strict=True):
            tokens = [*stack.tokenizer.encode(text), 259]
            with torch.no_grad():
                found = (
                    stack.hidden(pack([answer(trunk, tokens)])) @ stack.head_weight.T
                ).log_softmax(-1)
            each = found.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
            assert value == pytest.approx(sum(each), abs=1e-3)
            kept = each if i == 1 or text == "" else each[:-1]  # an empty answer is its end token
            assert short == pytest.approx(sum(kept), abs=1e-3)


def test_the_likelihood_of_a_text_that_does_not_fit_is_an_error(models: dict[str, Stack]) -> None:
    stack = models["before"]
    room = 512 - len(ChatML().prompt(user(""), stack.tokenizer)) - 1
    assert math.isfinite(completion_logprobs(stack, ChatML(), [user("")], [["y" * room]])[0][0])
    with pytest.raises(
        DataError,
        match=(
            r"^a text of 513 tokens does not fit the context of .*model; lower"
            r" answers\.max_tokens\.$"
        ),
    ):
        completion_logprobs(
            stack, ChatML(), [user("a"), user("")], [["z"], ["y", "y" * (room + 1)]]
        )
