"""Models in this process as language models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML, OpenBezoarTemplate
from bezoar.errors import RecipeError
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.local import Local, StackBackend
from bezoar.llm.pool import Pool
from bezoar.llm.types import Reply, Request
from bezoar.model.structured_output import StructuredOutput
from bezoar.progress import Progress
from tests.helpers.loaded import loaded
from tests.helpers.questions import question

TEXTS = [
    question("say " + "word " * (i % 7), max_tokens=12, seed=i, temperature=0.9 if i % 2 else 0.0)
    for i in range(13)
]
CHOICES = [question(f"is {i} good?", choices=("yes", "no, never", "")) for i in range(3)]


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> StackBackend:
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    return StackBackend(
        Stack(ModelSpec(str(tiny_model), dtype="float32"), device="cpu"), ChatML(), slots=4, group=5
    )


def one(backend: StackBackend, request: Request) -> Reply:
    return next(backend.answer([request]))[0][1]


def test_groups_hold_like_lengths_and_all_requests(backend: StackBackend) -> None:
    requests = [*TEXTS, *CHOICES]
    groups = backend.batches(requests)
    assert sorted(i for group in groups for i in group) == list(range(16))
    lengths = [len(backend.prompt(requests[i])) for group in groups[:2] for i in group]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(g) for g in groups] == [5, 5, 5, 1]
    assert groups == backend.batches(requests)


def test_texts_are_those_of_the_model(backend: StackBackend, tmp_path: Path) -> None:
    from bezoar.model.generation import generate
    from bezoar.model.sampling import SamplingParams

    with Journal(tmp_path / "j.sqlite") as journal:
        pool = Pool(backend, journal, Budget(), Progress())
        replies = pool.ask([*TEXTS, *CHOICES])
        pool = Pool(backend, journal, Budget(), Progress())
        assert pool.ask([*TEXTS, *CHOICES]) == replies
        assert pool.counts()["from_journal"] == 16
    prompts = [backend.prompt(r) for r in TEXTS]
    made = generate(backend.stack, prompts[::2], SamplingParams(max_tokens=12, stop_tokens=(259,)))
    decode = backend.stack.tokenizer.decode
    assert [r.text for r in replies[:13:2]] == [decode(m.tokens) for m in made]
    assert [r.prompt_tokens for r in replies[:13]] == [len(p) for p in prompts]
    drawn = [r.text for r in replies[1:13:2]]
    assert len(set(drawn)) == len(drawn)
    assert one(backend, TEXTS[1]).text == drawn[0], "a draw depends on its neighbours"


def test_choices_get_the_log_probability_of_their_tokens(backend: StackBackend) -> None:
    import torch

    reply = one(backend, CHOICES[0])
    prompt, encode = backend.prompt(CHOICES[0]), backend.stack.tokenizer.encode
    for choice, logprob in zip(CHOICES[0].choices, reply.logprobs, strict=True):
        ids = [*prompt, *encode(choice)]
        with torch.no_grad():
            plain = plain_logits(backend, ids).log_softmax(-1)
        wanted = sum(float(plain[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
        assert logprob == pytest.approx(wanted, abs=1e-3)
    assert reply.text == ""  # nothing is always the likeliest


def plain_logits(backend: StackBackend, ids: list[int]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(backend.stack.spec.path, dtype=torch.float32)
    return net(input_ids=torch.tensor([ids])).logits[0].float()


def test_prefill_and_stops(backend: StackBackend) -> None:
    free = one(backend, question("hello", max_tokens=20)).text
    begun = question("hello", max_tokens=9, prefill="Well,")
    prompt = backend.prompt(begun)
    assert prompt[: -len("Well,")] == backend.prompt(question("hello"))
    assert backend.stack.tokenizer.decode(prompt, markers=True).endswith("assistant\nWell,")
    assert one(backend, begun).text not in ("", free)
    cut = one(backend, question("hello", max_tokens=20, stop=(free[3:5],)))
    assert (cut.text, cut.finish) == (free.split(free[3:5], 1)[0], "stop")


def test_a_prompt_without_room_is_an_error_reply(backend: StackBackend) -> None:
    long, short = next(backend.answer([question("x" * 600), question("hi", max_tokens=2)]))
    assert long[1].finish == "error"
    assert "no room" in long[1].error
    assert short[1].finish == "length"
    assert one(backend, question("x" * 600, choices=("a", "b"))).finish == "error"


def test_the_recipe_component(tiny_model: Path, tmp_path: Path) -> None:
    local = Local(str(tiny_model), dtype="float32")
    with Journal(tmp_path / "j.sqlite") as journal:
        reply = Pool(local.open(), journal, Budget(), Progress()).ask(TEXTS[:1])[0]
        assert reply.completion_tokens > 0
        assert journal.entries()[0]["model"] == local.identity
    assert local.identity == Local(str(tiny_model), dtype="float32", slots=2, group=9).identity
    assert local.identity != Local(str(tiny_model)).identity
    assert (
        local.identity
        != Local(str(tiny_model), dtype="float32", template=OpenBezoarTemplate()).identity
    )
    with pytest.raises(RecipeError, match=r"slots: must be greater than or equal to 1 but is 0"):
        loaded(Local("x", slots=0))


def test_a_form_holds_the_reply_and_is_in_its_key(backend: StackBackend) -> None:
    free = question("Is it good?", max_tokens=12)
    held = replace(free, form=StructuredOutput(choice=("Accept", "Reject")))
    assert one(backend, held).text in ("Accept", "Reject")
    assert one(backend, held).finish == "stop"
    assert one(backend, free).text not in ("Accept", "Reject")
    # older requests keep their keys; another form is another question
    assert "form" not in free.content()
    other = replace(free, form=StructuredOutput(regex="Accept|Reject"))
    assert len({request.key("m") for request in (free, held, other)}) == 3
    bad = one(backend, replace(free, form=StructuredOutput.schema({"not": {}})))
    assert (bad.finish, bad.failure, bad.passing) == ("error", "refused", False)
    assert "cannot be held to the form" in bad.error
    with pytest.raises(ValueError, match="no choices, stop or prefill"):
        replace(held, prefill="a")
