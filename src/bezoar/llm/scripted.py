"""A language model that follows a script: whole recipes and tests without a model."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from bezoar.chat.pieces import cut_at_stop
from bezoar.data.files import locate_file
from bezoar.errors import DataError
from bezoar.io import file_hash, read_jsonl
from bezoar.llm.types import Backend, Reply, Request
from bezoar.references import FileRef

Rule = Callable[[Request], str]


@dataclass(frozen=True)
class Scripted:
    """A language model that answers by a list of patterns and replies, for tests.

    The first pattern found in the last user message answers; `\\1` in a reply is the pattern's
    first group. A request with choices gets almost all its probability on the choice that the reply
    begins with. A prompt that no pattern matches is an error that quotes the prompt.

    Example: {kind: scripted, script: replies.jsonl}
    """

    script: FileRef
    """A JSON Lines file of {"pattern": regular expression, "reply": text}."""
    kind: Literal["scripted"] = "scripted"

    @property
    def identity(self) -> str:
        return f"scripted {file_hash(self.path)}"

    @property
    def path(self) -> Path:
        """The script. RecipeError when there is none."""
        return locate_file(self.script, Path(), "script")

    def open(self) -> Backend:
        """The backend, its script read and checked."""
        rules = [self._rule(number, row) for number, row in read_jsonl(self.path)]

        def reply_to(request: Request) -> str:
            text = last_user(request)
            for pattern, reply in rules:
                match = pattern.search(text)
                if match:
                    return match.expand(reply)
            fault = f"no pattern matches the prompt {text[:80]!r}"
            raise DataError(f"{self.script}: {fault}; add a line for it.")

        return ScriptedBackend(reply_to, identity=self.identity)

    def _rule(self, number: int, row: dict[str, object]) -> tuple[re.Pattern[str], str]:
        place, pattern, reply = f"{self.script}:{number}", row.get("pattern"), row.get("reply")
        if not isinstance(pattern, str) or not isinstance(reply, str):
            raise DataError(
                f"{place}: a line of a script has the texts pattern and reply; mend it."
            )
        try:
            # a prompt has many lines, and `.` must cross them
            return re.compile(pattern, re.DOTALL), reply
        except re.error as error:
            what = f"the pattern is not a regular expression ({error})"
            raise DataError(f"{place}: {what}; mend it.") from None


@dataclass
class ScriptedBackend:
    """Answers by `rule`, `group` requests at a time. `seen` keeps what was answered, in order.

    Whoever wrote the rule keeps the forms that are asked for.
    """

    holds_forms: ClassVar[bool] = True

    rule: Rule
    identity: str = "scripted"
    group: int = 8
    seen: list[Request] = field(default_factory=list)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        order = range(len(requests))
        return [list(order[i : i + self.group]) for i in order[:: self.group]]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        replies = []
        for index, request in enumerate(requests):
            replies.append((index, self._reply(request)))
            self.seen.append(request)
        yield replies

    def _reply(self, request: Request) -> Reply:
        text = self.rule(request)
        num_prompt = sum(len(message.content.split()) for message in request.messages)
        if request.choices:
            starts = [text.strip().startswith(choice.strip()) for choice in request.choices]
            logprobs = tuple(math.log(0.9 if start else 0.01) for start in starts)
            return Reply(text, logprobs=logprobs, prompt_tokens=num_prompt)
        text = cut_at_stop(text.removeprefix(request.prefill), request.stop)
        words = text.split(" ")
        if len(words) > request.max_tokens:
            cut = " ".join(words[: request.max_tokens])
            # a word is a token here
            return Reply(cut, "length", (), num_prompt, request.max_tokens)
        return Reply(text, "stop", (), num_prompt, len(words))


def last_user(request: Request) -> str:
    """The text of the last user message."""
    return next((m.content for m in reversed(request.messages) if m.role == "user"), "")
