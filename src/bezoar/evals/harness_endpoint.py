"""LM-Eval-Harness's model interface over a language model that is asked, such as an endpoint:
written answers only.

Every request goes through the pool: many at once, journalled, never asked twice.
"""

import json
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from bezoar.chat.types import Message
from bezoar.errors import EndpointError, RecipeError
from bezoar.llm.types import Ask, Request


class AskLM(LM):  # type: ignore[misc]
    """A prompt is one user message, or the turns of a few-shot chat where the chat template is
    on."""

    tokenizer_name = "asked"

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self.ask = ask

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers. EndpointError when one failed: a benchmark with holes is no benchmark."""
        options = [normalize_gen_kwargs(request.args[1], 256) for request in requests]
        asked = [
            Request(
                _messages(request.args[0]),
                temperature=float(one.get("temperature", 0.0)) if one.get("do_sample") else 0.0,
                max_tokens=int(one["max_gen_toks"]),
            )
            for request, one in zip(requests, options, strict=True)
        ]
        replies = self.ask(asked)
        failed = [reply.error for reply in replies if reply.finish == "error"]
        if failed:
            raise EndpointError(
                f"{len(failed)} of {len(replies)} answers failed ({failed[0]}); run again, what was"
                " answered is kept."
            )
        return [
            postprocess_generated_text(r.text, one.get("until"), None)
            for r, one in zip(replies, options, strict=True)
        ]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Not to be had from a model that only answers."""
        raise RecipeError(
            f"task {requests[0].task_name}: it needs the log-probability of given texts; use a"
            " local model or a written task."
        )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """As `loglikelihood`."""
        raise RecipeError(
            f"task {requests[0].task_name}: it needs the log-probability of given texts; use a"
            " local model or a written task."
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as JSON, which `generate_until` reads back."""
        return json.dumps({"turns": chat_history})

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The endpoint's own."""
        return "the endpoint's"


def _messages(prompt: str) -> tuple[Message, ...]:
    if not prompt.startswith('{"turns": '):
        return (Message("user", prompt),)
    turns: list[dict[str, Any]] = json.loads(prompt)["turns"]
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)
