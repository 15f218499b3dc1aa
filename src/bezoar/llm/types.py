"""What is asked of a language model and what comes back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from bezoar.chat.types import Messages
from bezoar.io import content_hash
from bezoar.model.spec import Sampling
from bezoar.model.structured_output import StructuredOutput


@dataclass(frozen=True)
class Request:
    """One question: complete text, or (with `choices`) log-probabilities of given answers.

    `prefill` begins the model's answer and is not part of the reply's text. `seed` makes two draws
    for one prompt two requests. `stop` strings end the answer and are not part of it. `form` holds
    the reply's text to a form while it is drawn: one that has finish "stop" is of that form.
    """

    messages: Messages
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    prefill: str = ""
    choices: tuple[str, ...] = ()
    seed: int = 0
    top_k: int = 0
    form: StructuredOutput | None = None

    def __post_init__(self) -> None:
        if self.form and (self.choices or self.stop or self.prefill):
            raise ValueError("a form is of the whole answer; give no choices, stop or prefill")

    @classmethod
    def sampled(
        cls, messages: Messages, sampling: Sampling, seed: int, *, prefill: str = ""
    ) -> "Request":
        how = (sampling.temperature, sampling.top_p, sampling.max_tokens)
        return cls(messages, *how, prefill=prefill, seed=seed, top_k=sampling.top_k)

    def stops(self, of_template: Sequence[str]) -> tuple[str, ...]:
        """The strings that end the answer. A form ends by itself, and may hold what elsewhere ends
        an answer."""
        return () if self.form else (*self.stop, *of_template)

    def key(self, identity: str) -> str:
        """The journal key: the whole request and the identity of the model that is asked."""
        return content_hash(identity, self.content())

    def content(self) -> dict[str, Any]:
        """What answers depend on; without top_k, tools and form, requests have the keys of older
        journals."""
        fields = asdict(self)
        for message in fields["messages"]:
            if not message["tools"]:
                del message["tools"]
        for name in ("top_k", "form"):
            if not fields[name]:
                del fields[name]
        if self.form:
            fields["form"] = {name: value for name, value in fields["form"].items() if value}
        return fields


UNSENDABLE = "the prompt holds half of a surrogate pair, which cannot be sent"
"""The `error` of a reply whose request no server can be sent."""
Failure = Literal["", "passing", "refused", "filtered", "malformed", "budget"]
FINAL = ("refused", "filtered", "malformed")
"""The failures of a request that is never asked again."""


@dataclass(frozen=True)
class Reply:
    """One answer. `finish` is "error" for a failed request, whose `error` says why.

    `failure` says what follows from an error: "refused" (by the server or the model), "filtered"
    (by the provider's content filter) and "malformed" (no text can be read) are final for this
    request and are never asked again; "budget" was not sent; "passing", and "" in an error, may be
    answered next time. `logprobs` has one sum (nats) a
    choice; it is empty where the model's answer does not tell the choices apart.
    """

    text: str = ""
    finish: Literal["stop", "length", "error"] = "stop"
    logprobs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    error: str = ""
    failure: Failure = ""

    @property
    def passing(self) -> bool:
        """Whether the request failed and may be answered when it is asked again."""
        return self.finish == "error" and self.failure in ("", "passing")


Ask = Callable[[Sequence[Request]], list[Reply]]
"""Replies in the order of the requests; every one is journalled before it is returned."""


class Backend(Protocol):
    """A language model. `identity` names it and all that changes its answers, never a secret."""

    @property
    def identity(self) -> str: ...

    # a backend that holds answers to `Request.form` says so: `holds_forms = True`

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Groups (indices) that are answered together; they depend only on `requests`."""

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """Yield (index, reply), each index once; one yield is journalled together."""


def fault(reply: Reply) -> str:
    """Why a reply cannot be used (unreachable, refused, filtered, malformed, budget, empty,
    truncated), or ""."""
    if reply.finish == "error":
        return "unreachable" if reply.passing else reply.failure
    if not reply.text.strip():
        return "empty"
    return "truncated" if reply.finish == "length" else ""
