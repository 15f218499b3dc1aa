"""Any server that speaks OpenAI's chat completions: a provider, vLLM, llama.cpp, Ollama, TGI.

vLLM: `vllm serve MODEL` on the GPU machine, then `{kind: endpoint, url: "http://HOST:8000/v1",
model: MODEL}`. To continue a begun answer (`prefill`) vLLM wants `extra: {continue_final_message:
true, add_generation_prompt: false}`.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from bezoar.errors import EndpointError
from bezoar.io import canonical
from bezoar.llm.budget import Prices
from bezoar.llm.openai_format import from_body, to_body
from bezoar.llm.types import Reply, Request
from bezoar.secrets import looks_like_key, mask, read_key

_OURS = ("messages", "model", "stream", "n", "best_of")
_LENGTHS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Endpoint:
    """Recipe keys of a server.

    `key_env` names the environment variable that holds the API key ("" sends none); `concurrency`
    requests are in flight; one that meets no answer in `timeout_s` from its sending, meets 429 or
    5xx, or comes back broken is sent again up to `retries` times, after `backoff_s`, twice that,
    and so on, or when the server says (Retry-After); `extra` is added to the body of every request.
    Choices are answered by the probabilities of the first token.
    """

    url: str
    model: str
    key_env: str = ""
    concurrency: int = 32
    timeout_s: float = 120.0
    retries: int = 5
    backoff_s: float = 1.0
    prices: Prices = field(default_factory=Prices)
    extra: dict[str, Any] = field(default_factory=dict)
    kind: Literal["endpoint"] = "endpoint"

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.key_env and (
            not re.fullmatch(r"[A-Za-z_]\w*", self.key_env) or looks_like_key("", self.key_env)
        ):
            raise ValueError(
                "key_env is the name of an environment variable, never the key itself; export the"
                " key and write the name"
            )
        if not all(
            math.isfinite(number)
            for number in (self.concurrency, self.timeout_s, self.retries, self.backoff_s)
        ):
            raise ValueError("concurrency, timeout_s, retries and backoff_s must be finite numbers")
        if self.concurrency < 1 or self.retries < 0 or self.timeout_s <= 0 or self.backoff_s < 0:
            raise ValueError(
                "concurrency must be at least 1, retries and backoff_s at least 0, timeout_s more"
                " than 0"
            )
        for name in _OURS:
            if name in self.extra:
                raise ValueError(
                    f"extra: {name} is set by bezoar and cannot stand in extra; remove it"
                )
        for name in _LENGTHS:
            value = self.extra.get(name, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"extra: {name} must be a whole number of at least 1, since money is reserved"
                    " by it"
                )
        for name, value in _leaves(self.extra):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"extra: {name} must be a finite number")
            if looks_like_key(name, value):
                raise ValueError(
                    f"extra: {name} looks like an API key; put it into an environment variable and"
                    " name that in key_env"
                )

    @property
    def identity(self) -> str:
        """Address, model and extra settings; never the key."""
        return canonical(
            {
                "kind": self.kind,
                "url": self.url.rstrip("/"),
                "model": self.model,
                "extra": self.extra,
            }
        )

    def api_key(self) -> str:
        """The key, or "" where none is wanted. EndpointError when the variable is not set or holds
        what cannot be sent."""
        return read_key(self.key_env, self.url) if self.key_env else ""

    def open(self) -> "EndpointBackend":
        """The backend, its key read from the environment."""
        key = self.api_key()
        try:
            self.__post_init__()  # now that the key is known, it is found in url and extra too
        except ValueError as error:
            raise EndpointError(f"{mask(self.url)}: {error}.") from None
        return EndpointBackend(self, key)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        valid = False
    if not valid or any(character <= " " for character in url):
        raise ValueError("the url is no http address; write one such as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise ValueError(
            "the address holds a password; put the key into an environment variable and name it in"
            " key_env"
        )
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if looks_like_key(name, value):
            raise ValueError(
                "the query of the address holds a key; put it into an environment variable and name"
                " it in key_env"
            )
    if parts.fragment or any(
        looks_like_key("path", part) for part in (url, *parts.path.split("/"))
    ):
        raise ValueError(
            "the address holds a part that is no address (#) or looks like a key; name the key's"
            " variable in key_env"
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in a table, however deep."""
    if isinstance(value, dict):
        for inner, more in value.items():
            yield from _leaves(more, str(inner))
    elif isinstance(value, list):
        for more in value:
            yield from _leaves(more, name)
    else:
        yield name, value


class EndpointBackend:
    """A server that is asked over HTTP; `llm/ask_remote.py` sends what `body` makes and hands what
    comes back to `read`."""

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        self.endpoint, self.prices, self.api_key = endpoint, endpoint.prices, api_key

    @property
    def identity(self) -> str:
        """The endpoint's."""
        return self.endpoint.identity

    def body(self, request: Request) -> bytes:
        """What is sent. UnicodeEncodeError for a prompt with half of a surrogate pair."""
        return json.dumps(
            {"model": self.endpoint.model, **to_body(request), **self.endpoint.extra},
            ensure_ascii=False,
        ).encode("utf-8")

    def most_usd(self, request: Request, body: bytes) -> float:
        """More than the request can cost: one token a byte of what is sent, and the longest answer
        that it allows."""
        longest = max(int(self.endpoint.extra.get(name, 0)) for name in _LENGTHS)
        return self.prices.cost_usd(
            len(body) + 16 * (len(request.messages) + 2),
            max(longest, 1 if request.choices else request.max_tokens),
        )

    def read(self, body: str, request: Request) -> Reply:
        """The reply in what a server sent."""
        return from_body(body, request, self.prices)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """One group: requests do not influence one another."""
        return [list(range(len(requests)))]
