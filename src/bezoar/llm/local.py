"""A language model in this process: a folder or a Hub id, opened when it is first asked."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import ChatML, HubTemplate, OpenBezoarTemplate
from bezoar.io import cached_hash, canonical, content_hash
from bezoar.llm.types import Backend, Reply, Request
from bezoar.model.spec import ModelSpec

if TYPE_CHECKING:
    from bezoar.model.prompt_group import PromptGroup
    from bezoar.model.stack import Stack

AnyTemplate = Annotated[ChatML | OpenBezoarTemplate | HubTemplate, Field(discriminator="kind")]


@dataclass(frozen=True)
class Local:
    """Recipe keys of a model that answers here.

    `model`, `dtype` and `quantize` as in `ModelSpec`; `renderer` writes the prompts; `slots`
    answers grow side by side and `group` requests are journalled together.
    """

    model: str
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    quantize: Literal["none", "nf4"] = "none"
    renderer: AnyTemplate = field(default_factory=ChatML)
    slots: int = 32
    group: int = 64
    kind: Literal["local"] = "local"

    def __post_init__(self) -> None:
        if self.slots < 1 or self.group < 1:
            raise ValueError("slots and group must be at least 1")

    @property
    def identity(self) -> str:
        """The model's files (or its name where it is not a local folder), how it is held, and the
        renderer."""
        folder = Path(self.model)
        return canonical(
            {
                "kind": self.kind,
                "model": cached_hash(folder) if folder.is_dir() else self.model,
                "dtype": self.dtype,
                "quantize": self.quantize,
                "renderer": dataclasses.asdict(self.renderer),
            }
        )

    def open(self) -> Backend:
        """The backend; the model is loaded by the first question that the journal cannot answer."""
        return LocalBackend(self)


class LocalBackend:
    """A `Local` model, loaded when needed."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self._identity = local.identity
        self._inner: StackBackend | None = None

    @property
    def identity(self) -> str:
        """The recipe's."""
        return self._identity

    @property
    def inner(self) -> "StackBackend":
        """The loaded model."""
        if self._inner is None:
            from bezoar.model.stack import Stack

            local = self.local
            stack = Stack(ModelSpec(local.model, local.quantize, local.dtype), [])
            self._inner = StackBackend(stack, local.renderer, local.slots, local.group)
        return self._inner

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Groups of like length."""
        return self.inner.batches(requests)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield a call: the answers of a group are journalled together."""
        return self.inner.answer(requests)


class StackBackend:
    """Answers requests with a model that is already there, such as a stack of our adapters."""

    def __init__(
        self, stack: "Stack", renderer: AnyTemplate, slots: int = 32, group: int = 64
    ) -> None:
        self.stack, self.renderer, self.slots, self.group = stack, renderer, slots, group
        renderer.check(stack.tokenizer)

    @property
    def identity(self) -> str:
        """Weights, adapters and renderer."""
        return canonical(
            {
                "kind": "stack",
                "model": self.stack.identity,
                "renderer": dataclasses.asdict(self.renderer),
            }
        )

    def prompt(self, request: Request) -> list[int]:
        """The tokens of a request's prompt."""
        return self.renderer.prompt(request.messages, self.stack.tokenizer, prefill=request.prefill)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """`group` requests of like kind and length, the longest first."""
        lengths = [len(self.prompt(request)) for request in requests]
        order = sorted(
            range(len(requests)), key=lambda i: (bool(requests[i].choices), -lengths[i], i)
        )
        return [order[start : start + self.group] for start in range(0, len(order), self.group)]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield: all of `requests`, those with choices by their log-probabilities."""
        picks = [i for i, request in enumerate(requests) if request.choices]
        texts = [i for i, request in enumerate(requests) if not request.choices]
        replies = [*zip(picks, self._choose([requests[i] for i in picks]), strict=True)]
        replies += zip(texts, self._complete([requests[i] for i in texts]), strict=True)
        yield sorted(replies, key=lambda pair: pair[0])

    def _choose(self, requests: list[Request]) -> list[Reply]:
        """Sums of the log-probabilities of each choice's tokens, without an end token."""
        if not requests:
            return []
        from bezoar.model.prompt_group import prompt_group
        from bezoar.model.score import score

        encode, context = (
            self.stack.tokenizer.encode,
            int(self.stack.net.config.max_position_embeddings),
        )
        groups = []
        for request in requests:
            groups.append(
                prompt_group(self.prompt(request), [encode(choice) for choice in request.choices])
            )
        scores = iter(score(self.stack, [group for group in groups if group.longest <= context]))
        return [
            (
                self._chosen(request, group, [one.total for one in next(scores)])
                if group.longest <= context
                else _too_long(len(group.prompt))
            )
            for request, group in zip(requests, groups, strict=True)
        ]

    def _chosen(self, request: Request, group: "PromptGroup", totals: list[float]) -> Reply:
        best = max(range(len(totals)), key=totals.__getitem__)
        return Reply(request.choices[best], logprobs=tuple(totals), prompt_tokens=len(group.prompt))

    def _complete(self, requests: list[Request]) -> list[Reply]:
        """Texts; a prompt that leaves no room in the context is a reply with finish "error"."""
        if not requests:
            return []
        from bezoar.model.generation import generate
        from bezoar.model.sampling import SamplingParams

        tokenizer, end = self.stack.tokenizer, self.renderer.end(self.stack.tokenizer)
        prompts = [self.prompt(request) for request in requests]
        limits = [
            SamplingParams(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                stop_tokens=(end, tokenizer.eos_id),
                stop=(*request.stop, *self.renderer.stops()),
                seed=int(content_hash(dataclasses.asdict(request)), 16),
            )
            for request in requests
        ]
        replies = []
        for prompt, limit, made in zip(
            prompts, limits, generate(self.stack, prompts, limits, slots=self.slots), strict=True
        ):
            if made.finish == "error":
                replies.append(_too_long(len(prompt)))
                continue
            text = cut_at_stop(tokenizer.decode(made.tokens), limit.stop)
            replies.append(
                Reply(
                    text, made.finish, prompt_tokens=len(prompt), completion_tokens=len(made.tokens)
                )
            )
        return replies


def _too_long(num_tokens: int) -> Reply:
    return Reply(
        finish="error",
        error=f"the prompt has {num_tokens} tokens and leaves no room in the model's context",
        prompt_tokens=num_tokens,
        failure="refused",
    )
