"""Language models while a recipe is rehearsed: a script that knows what is asked for answers, a
local model is computed besides, and an endpoint is really asked its first questions."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from bezoar.errors import EndpointError
from bezoar.io import content_hash
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.local import Local, LocalBackend
from bezoar.llm.openvino import Openvino
from bezoar.llm.pool import Pool
from bezoar.llm.repair import NOT_RIGHT
from bezoar.llm.scripted import ScriptedBackend, last_user
from bezoar.llm.servers import Servers
from bezoar.llm.types import Backend, Reply, Request
from bezoar.llm.vllm import Vllm
from bezoar.progress import Progress

_NOUNS = (
    *("river", "stone", "violin", "paper", "bread", "harbour", "winter", "letter", "garden"),
    *("clock", "copper", "lantern", "bridge", "wool", "orchard", "mirror", "thunder", "candle"),
    *("kettle", "ladder", "marble", "needle", "oyster", "pepper", "quarry", "ribbon", "tunnel"),
)
_ATTRIBUTE = re.compile(r"^(\w[\w -]*): .+\n\s+0 = ", re.MULTILINE)
_FEW_TOKENS = 8
"""A random model's text says nothing, so that little of it is drawn."""


def spoken(request: Request) -> str:
    """What can be read by whoever asked: the form is found in the words of the request."""
    asked, draw = last_user(request), Random(content_hash(asdict(request)))
    if asked.startswith(NOT_RIGHT):
        # only a server's own answer can be wrong here, and a better one would hide that
        before = request.messages[-2]
        return before.content if before.role == "assistant" else ""
    if "<example>" in asked + request.prefill:
        return "\n".join(f"<example>{_instruction(draw)}</example>" for _ in range(6))
    if "Not Equal" in asked:
        return "Not Equal"
    if "[[A]]" in asked:
        return "[[C]]" if "[[C]]" in asked else "[[A]]"
    if "[[" in asked:
        return f"It does most of what was asked.\nRating: [[{draw.randint(5, 9)}]]"
    if names := _ATTRIBUTE.findall(asked):
        return "\n".join(f"{name}: {draw.randint(2, 3)}" for name in names)
    if "Critique:" in asked:
        revision = f"\nRevision: {_prose(draw)}" if "Revision:" in asked else ""
        return f"Critique: It leaves out the {draw.choice(_NOUNS)}.{revision}"
    if "Accept" in asked and "Reject" in asked:
        return "Accept: it does what was asked."
    return _prose(draw)


def _instruction(draw: Random) -> str:
    a, b, c, d = draw.sample(_NOUNS, 4)
    return f"{draw.choice(('Explain', 'Describe'))} how {a} and {b} differ, and why {c} needs {d}."


def _prose(draw: Random) -> str:
    a, b, c, d, e, f = draw.sample(_NOUNS, 6)
    return f"First comes the {a}, since {b} needs it. Then {c} and {d} follow. A {e} ends the {f}."


def _logprobs(request: Request) -> tuple[float, ...]:
    """The first choice is likeliest, by a margin of its own; a single one is a whole text, which is
    news."""
    draw = Random(content_hash(asdict(request)))
    first, *others = [-draw.uniform(0.1, 1.0) for _ in request.choices]
    return (first, *(other - 1.0 for other in others)) if others else (-40.0,)


@dataclass
class RehearsedBackend:
    """Answers by the script. `model` is asked the same in few tokens, and what it refuses stays
    refused; the first `num_real` questions are those of `endpoint` itself."""

    holds_forms: ClassVar[bool] = True

    identity: str
    model: Backend | None = None
    endpoint: "RehearsedEndpoint | None" = None
    num_asked: int = 0

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        return (self.model or ScriptedBackend(spoken)).batches(requests)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield: all of `requests`."""
        answers = dict(next(ScriptedBackend(spoken).answer(requests)))
        for i, request in enumerate(requests):
            if request.choices:
                answers[i] = replace(answers[i], logprobs=_logprobs(request))
        if self.model is not None:
            few = [replace(r, max_tokens=min(r.max_tokens, _FEW_TOKENS)) for r in requests]
            for done in self.model.answer(few):
                answers |= {i: reply for i, reply in done if reply.finish == "error"}
        if self.endpoint is not None:
            real = requests[: self.endpoint.num_real - self.num_asked]
            self.num_asked += len(real)
            answers |= dict(enumerate(self.endpoint.ask(real) if real else []))
        yield sorted(answers.items())


@dataclass(frozen=True)
class RehearsedLocal(Local):
    """A local model in a rehearsal; `model` names its stand-in."""

    def open(self) -> Backend:
        return RehearsedBackend(self.identity, LocalBackend(self))


@dataclass(frozen=True)
class RehearsedOpenvino(Openvino):
    """A model of OpenVINO in a rehearsal: the script alone answers, and nothing is loaded."""

    def open(self) -> Backend:
        return RehearsedBackend(self.identity)


@dataclass(frozen=True, kw_only=True)
class RehearsedVllm(Vllm):
    """A model of vLLM in a rehearsal: the script alone answers, and no server is started."""

    def open(self, servers: Servers | None = None) -> Any:
        return RehearsedBackend(self.identity)


@dataclass(frozen=True)
class RehearsedEndpoint(Endpoint):
    """An endpoint in a rehearsal: asked `num_real` questions, each noted in the folder `asked`."""

    num_real: int = 0
    asked: str = ""

    def open(self) -> Any:
        if self.num_real:
            super().open()  # the key is there
        return RehearsedBackend(self.identity, endpoint=self)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The server's own replies. EndpointError for one that did not come."""
        with Journal(Path(self.asked) / "journal.sqlite") as journal:
            replies = Pool(super().open(), journal, Budget(), Progress()).ask(requests)
        for reply in replies:
            if reply.finish == "error":
                what = f"{self.urls[0]}: {self.model} did not answer a question ({reply.error})"
                raise EndpointError(f"{what}; correct the backend's settings or the server.")
            tokens = reply.prompt_tokens + reply.completion_tokens
            row = {"identity": self.identity, "usd": reply.cost_usd, "tokens": tokens}
            with (Path(self.asked) / "asked.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
        return replies
