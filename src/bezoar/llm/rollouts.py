"""Answers of a policy in training, drawn by vLLM with the adapters as they are now."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bezoar.errors import EndpointError, RecipeError, brief
from bezoar.io import read_object
from bezoar.llm.engine import SEEDS, Engine, answer_keys, lora_flags, tokens_of
from bezoar.llm.servers import Say, Server, Servers
from bezoar.model.resolve import public_path

if TYPE_CHECKING:
    from bezoar.model.sampling import SamplingParams
    from bezoar.model.stack import Stack


class Answer(NamedTuple):
    """An answer without its end token, and the log-probabilities of its tokens and of that one, at
    the temperature that it was drawn with."""

    tokens: list[int]
    finish: str
    logprobs: tuple[float, ...]


@dataclass
class EngineRollouts:
    """The engine of a recipe as the one that draws what a policy learns from."""

    engine: Engine
    servers: Servers
    say: Say
    _served: tuple[Server, str] | None = field(default=None, init=False)
    _version: int | None = field(default=None, init=False)

    def refresh(self, stack: "Stack", folder: Path, version: int) -> None:
        """Give the server all adapters of a stack as one, by way of a folder, unless it has those
        of this version. The server is not started anew."""
        if version == self._version:
            return
        stack.save_adapter(folder)
        least = read_object(folder / "adapter_config.json")["r"]
        # of the distribution that is drawn from, temperature and all, as the trainer computes them
        more = {**lora_flags(least), "logprobs-mode": "processed_logprobs"}
        arguments = self.engine.arguments(stack.spec.dtype, **more)
        base = public_path(stack.spec.path)
        server = self.servers.get(base, arguments, self.engine.start_s, self.say)
        server.unload_all()
        # under a new name: prefixes that it has cached go by the name
        self._served, self._version = (server, server.load_adapter(folder)), version

    def refuse_longer(self, longest: int) -> None:
        """RecipeError if a prompt and its answer can have more tokens than the server takes."""
        assert self._served is not None
        if longest > (most := self._served[0].context_length()):
            what = f"a prompt and its answer take up to {longest} tokens, and vLLM {most}"
            fix = "raise flags: max-model-len, or lower max_length or max_tokens"
            raise RecipeError(f"engine: {what}; {fix}.")

    def draw(
        self, prompts: Sequence[list[int]], params: "Sequence[SamplingParams]"
    ) -> list[Answer]:
        """An answer to each prompt, as `generate` gives them. EndpointError if vLLM refuses one or
        replies something else, UnfinishedError if it does not reply."""
        with ThreadPoolExecutor(self.engine.concurrency) as pool:
            return list(pool.map(self._answer, prompts, params))

    def _answer(self, prompt: list[int], params: "SamplingParams") -> Answer:
        assert self._served is not None
        server, name = self._served
        body = {"model": name, "prompt": prompt, "max_tokens": params.max_tokens}
        body |= {"temperature": params.temperature, "seed": params.seed % SEEDS}
        body |= answer_keys(params.stop_tokens)
        reply = server.complete(body, self.engine.timeout_s, self.engine.retries)
        try:
            [choice] = reply["choices"]
            tokens, logprobs = tokens_of(choice)
            fault = f"gave {len(tokens)} tokens with {len(logprobs)} log-probabilities"
        except (ValueError, KeyError, TypeError):
            tokens, logprobs = [], []
            fault = f"gave no tokens with log-probabilities, but {brief(json.dumps(reply), 200)}"
        if len(logprobs) != len(tokens) or not tokens:
            raise EndpointError(f"{server.log}: vLLM {fault}; see the log.")
        ended = tokens[-1] in params.stop_tokens
        kept = tokens[: len(tokens) - ended]
        return Answer(kept, "stop" if ended else "length", tuple(logprobs))
