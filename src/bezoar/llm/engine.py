"""vLLM for the models of a recipe: a base served once, and a trained stage's adapters on it as one
LoRA. Prompts are sent as tokens, so that they are those of training whatever the server's template.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bezoar.bounds import Natural
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.io import canonical, content_hash
from bezoar.llm.budget import FREE
from bezoar.llm.held import form_keys
from bezoar.llm.openai_format import from_body
from bezoar.llm.servers import SERVED, Say, Server, Servers
from bezoar.llm.types import Reply, Request
from bezoar.llm.vllm import HELD, ServedBackend, VllmServer
from bezoar.model.resolve import public_path, stack_identity
from bezoar.model.spec import ModelSpec
from bezoar.model.tokenizer import shared_tokenizer

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes as its max-lora-rank."""
SEEDS = 2**63
"""Those that it takes are below."""


@dataclass(frozen=True, kw_only=True)
class Engine(VllmServer):
    """vLLM draws the answers of this recipe's models, for `sample`, evaluations and `rollouts`.

    A base is served once; the adapters of a training stage go to the running server as one LoRA,
    under a name that was never used, and are unloaded behind the stage that asked. Models whose
    weights all trained have a server each. PPO, GRPO and RLOO draw by it what they learn from if
    they say so (`rollouts: engine`). Log-likelihoods of lm_eval are computed here. Give vLLM a
    part of the GPU if a stage loads a model besides.

    Example: {kind: vllm, flags: {max-model-len: 4096, gpu-memory-utilization: 0.5}}
    """

    check: Natural = 32
    """Answers of `sample` whose log-probabilities are computed here too, as training would; the
    difference is in stats.json and the metrics."""
    kind: Literal["vllm"] = "vllm"


class Drawn(NamedTuple):
    """An answer as tokens, with the engine's log-probability of each."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


class EngineBackend(ServedBackend):
    """A model of the recipe in vLLM: `spec` with at most one folder of `adapters`.

    `rank` is the largest of the adapters that the server will get. `drawn` keeps the first answers.
    """

    path = "/completions"

    def __init__(
        self,
        engine: Engine,
        model: tuple[ModelSpec, Sequence[Path]],
        template: Template,
        servers: Servers,
        rank: int = 0,
    ) -> None:
        (self.spec, self.adapters), self.engine = model, engine
        self.template, self.servers, self.rank = template, servers, rank
        self.tokenizer: HubTokenizer = shared_tokenizer(self.spec.path)
        template.check(self.tokenizer)
        made_of = {"model": stack_identity(*model), "renderer": asdict(template)}
        identity = canonical({"kind": "vllm stack", **made_of, "flags": engine.settings})
        super().__init__(engine, identity)
        self.drawn: list[Drawn] = []
        self._server: Server | None = None
        self._name, self._context = SERVED, 0

    def start(self, say: Say) -> Server:
        """The server of the base, which has the adapters."""
        # room for the largest rank of the recipe: a larger one later would need another server
        lora = lora_flags(self.rank) if self.rank else {}
        arguments = self.engine.arguments(self.spec.dtype, **lora)
        folder = public_path(self.spec.path)
        server = self.servers.get(folder, arguments, self.engine.start_s, say)
        if server is not self._server:
            self._context = server.context_length()
            self._name = server.load_adapter(self.adapters[-1]) if self.adapters else SERVED
            self._server = server
        return server

    def body(self, request: Request) -> bytes:
        """Tokens in place of messages. With choices, the prompt before each."""
        prompt, ends = self._prompt(request), self._ends
        body: dict[str, Any] = {"model": self._name, "temperature": request.temperature}
        if request.choices:
            # answers that are there already are scored as parts of prompts; one token more is the
            # least that can be asked for
            prompts = [prompt + self.tokenizer.encode(choice) for choice in request.choices]
            body |= {"prompt": prompts, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
            return json.dumps(body).encode()
        # a prompt without room is sent, and refused by the server
        room = max(1, min(request.max_tokens, self._context - len(prompt)))
        body |= {"prompt": prompt, "max_tokens": room, **answer_keys(ends)}
        if request.temperature > 0:
            # by content, so that equal questions of two stages are drawn alike
            seed = int(content_hash(request.content()), 16) % SEEDS
            body |= {"top_p": request.top_p, "top_k": request.top_k, "seed": seed}
        if stops := request.stops(self.template.stops()):
            body["stop"] = list(stops)
        if request.form:
            body |= form_keys(request.form, HELD[request.form.kind])
        return json.dumps(body).encode()

    def read(self, body: str, request: Request) -> Reply:
        """The reply, its text decoded here as that of a local model is."""
        try:
            table = json.loads(body)
            answers = sorted(table["choices"], key=lambda choice: int(choice["index"]))
            if request.choices:
                return self._chosen(answers, request, table["usage"])
            tokens, finish = self._tokens(answers[0], request)
        # an error of the server, or a body that is cut short: read as those of any endpoint
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return from_body(body, request, FREE)
        text = self.tokenizer.decode(tokens)
        message = {"message": {"content": text}, "finish_reason": finish}
        # what begins the answer was part of the prompt, and is not cut off again
        plain = replace(request, prefill="", stop=request.stops(self.template.stops()))
        return from_body(json.dumps({**table, "choices": [message]}), plain, FREE)

    def difference(self, stack: "Stack") -> dict[str, float]:
        """How far the engine's log-probabilities of `drawn` are from those of training.

        Both sides are of temperature 1; see `apart`.
        """
        from bezoar.model.prompt_group import prompt_group
        from bezoar.model.score import score

        kept = [drawn for drawn in self.drawn if drawn.tokens]
        if not kept:
            return {}
        scored = score(stack, [prompt_group(d.prompt, [d.tokens]) for d in kept])
        return difference(kept, [answers[0].logprobs.tolist() for answers in scored])

    @property
    def _ends(self) -> tuple[int, ...]:
        return self.template.end(self.tokenizer), self.tokenizer.eos_id

    def _prompt(self, request: Request) -> list[int]:
        return self.template.prompt(request.messages, self.tokenizer, prefill=request.prefill)

    def _tokens(self, answer: dict[str, Any], request: Request) -> tuple[list[int], str]:
        """The tokens without an end token, and why they end; the first answers are kept."""
        tokens, logprobs = tokens_of(answer)
        if len(self.drawn) < self.engine.check:
            self.drawn.append(Drawn(self._prompt(request), tokens, logprobs))
        ended = bool(tokens) and tokens[-1] in self._ends
        return tokens[: len(tokens) - ended], str(answer["finish_reason"])

    def _chosen(self, answers: list[Any], request: Request, usage: dict[str, Any]) -> Reply:
        """Sums of the log-probabilities of each choice's tokens, without an end token."""
        totals = []
        for choice, answer in zip(request.choices, answers, strict=True):
            tokens = self.tokenizer.encode(choice)
            places = answer["prompt_logprobs"][-len(tokens) :] if tokens else []
            pairs = zip(tokens, places, strict=True)
            totals.append(sum(float(place[str(token)]["logprob"]) for token, place in pairs))
        likeliest = request.choices[totals.index(max(totals))]
        return Reply(likeliest, logprobs=tuple(totals), prompt_tokens=int(usage["prompt_tokens"]))


def difference(drawn: Sequence[Drawn], ours: Sequence[Sequence[float]]) -> dict[str, float]:
    """`EngineBackend.difference`; `ours` are the log-probabilities that are computed here."""
    gaps = [
        here - there
        for answer, values in zip(drawn, ours, strict=True)
        for here, there in zip(values, answer.logprobs, strict=True)
    ]
    return {"tokens": len(gaps), **{name: round(value, 8) for name, value in apart(gaps).items()}}


def apart(gaps: Sequence[float]) -> dict[str, float]:
    """How far two are apart, from log P_here - log P_engine of tokens.

    `kl_mean` and `kl_max` are nats a token of the estimate r - 1 - log r, r = P_here / P_engine
    (Schulman 2020, "Approximating KL Divergence"), `ratio_outside` the share of tokens with r
    outside of [0.9, 1.1].
    """
    # an engine that calls its own token impossible would give more than a float holds
    ratios = [exp(min(gap, 700.0)) for gap in gaps]
    kls = [ratio - 1 - gap for ratio, gap in zip(ratios, gaps, strict=True)]
    outside = sum(not 0.9 <= ratio <= 1.1 for ratio in ratios) / len(gaps)
    return {"kl_mean": sum(kls) / len(kls), "kl_max": max(kls), "ratio_outside": outside}


def lora_flags(rank: int) -> dict[str, Any]:
    """Flags of a server that takes adapters up to a rank."""
    room = next((most for most in _RANKS if most >= rank), _RANKS[-1])
    return {"enable-lora": True, "max-lora-rank": room}


def answer_keys(ends: Sequence[int]) -> dict[str, Any]:
    """Of a request for an answer that ends with one of these tokens."""
    # 0: log-probabilities of what was drawn, and of no other token
    keys: dict[str, Any] = {"return_token_ids": True, "logprobs": 0}
    # ends of ours, and none that the model's config names besides
    return {**keys, "stop_token_ids": list(ends), "ignore_eos": True}


def tokens_of(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
    """The tokens of an answer that was asked for with `answer_keys`, and their log-probabilities.
    KeyError, TypeError or ValueError where they are not there."""
    tokens = [int(token) for token in answer["token_ids"]]
    return tokens, [float(value) for value in answer["logprobs"]["token_logprobs"]]
