"""A language model that follows a script: whole recipes and tests without a model."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bezoar.chat.pieces import cut_at_stop
from bezoar.data.files import locate_file
from bezoar.errors import DataError
from bezoar.io import content_hash, file_hash, read_jsonl
from bezoar.llm.types import Backend, Reply, Request
from bezoar.references import FileRef

Rule = Callable[[Request], str]


@dataclass(frozen=True)
class Scripted:
    """Recipe keys: `script`, a JSON Lines file of {"pattern", "reply"} with regular expressions.

    The first pattern found in the last user message answers; `\\1` in a reply is the pattern's
    first group. A request with choices gets almost all its probability on the choice that the reply
    begins with. Prompts that no pattern matches are DataErrors that quote the prompt.
    """

    script: FileRef
    kind: Literal["scripted"] = "scripted"

    @property
    def identity(self) -> str:
        """The content of the script."""
        return f"scripted {file_hash(self.path)}"

    @property
    def path(self) -> Path:
        """The script. RecipeError when there is none."""
        return locate_file(self.script, Path(), "script")

    def open(self) -> Backend:
        """The backend, its script read and checked."""
        rules: list[tuple[re.Pattern[str], str]] = []
        for number, row in read_jsonl(self.path):
            if not isinstance(row.get("pattern"), str) or not isinstance(row.get("reply"), str):
                raise DataError(
                    f"{self.script}:{number}: a line of a script has the texts pattern and reply;"
                    " mend it."
                )
            try:
                rules.append((re.compile(row["pattern"], re.DOTALL), row["reply"]))
            except re.error as error:
                raise DataError(
                    f"{self.script}:{number}: the pattern is not a regular expression ({error});"
                    " mend it."
                ) from None

        def rule(request: Request) -> str:
            text = last_user(request)
            for pattern, reply in rules:
                found = pattern.search(text)
                if found:
                    return found.expand(reply)
            raise DataError(
                f"{self.script}: no pattern matches the prompt {text[:80]!r}; add a line for it."
            )

        return ScriptedBackend(rule, identity=self.identity)


@dataclass
class ScriptedBackend:
    """Answers by `rule`. `seen` keeps every request that was answered, in order; groups hold
    `group` requests."""

    rule: Rule
    identity: str = "scripted"
    group: int = 8
    seen: list[Request] = field(default_factory=list)

    @classmethod
    def from_list(cls, replies: Sequence[str]) -> "ScriptedBackend":
        """A backend that gives `replies` in turn, and starts again after the last."""
        counter = iter(range(1 << 62))
        return cls(
            lambda request: replies[next(counter) % len(replies)],
            identity=f"scripted {content_hash(list(replies))}",
        )

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests in their order, `group` at a time."""
        return [
            list(range(i, min(i + self.group, len(requests))))
            for i in range(0, len(requests), self.group)
        ]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield for all."""
        finished = []
        for index, request in enumerate(requests):
            finished.append((index, self._reply(request)))
            self.seen.append(request)
        yield finished

    def _reply(self, request: Request) -> Reply:
        text = self.rule(request)
        num_prompt = sum(len(m.content.split()) for m in request.messages)
        if request.choices:
            picked = [text.strip().startswith(choice.strip()) for choice in request.choices]
            return Reply(
                text,
                logprobs=tuple(math.log(0.9) if hit else math.log(0.01) for hit in picked),
                prompt_tokens=num_prompt,
            )
        text = cut_at_stop(text.removeprefix(request.prefill), request.stop)
        words = text.split(" ")
        if len(words) > request.max_tokens:
            return Reply(
                " ".join(words[: request.max_tokens]),
                "length",
                prompt_tokens=num_prompt,
                completion_tokens=request.max_tokens,
            )
        return Reply(text, prompt_tokens=num_prompt, completion_tokens=len(words))


def last_user(request: Request) -> str:
    """The text of the last user message."""
    return next((m.content for m in reversed(request.messages) if m.role == "user"), "")
