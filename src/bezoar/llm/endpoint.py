"""Any server that speaks OpenAI's chat completions: a provider, vLLM, llama.cpp, Ollama, TGI."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from bezoar.bounds import Count, Fraction, Natural, NotNegative, Positive
from bezoar.errors import EndpointError
from bezoar.io import canonical
from bezoar.llm.begun import FLAGS, Way
from bezoar.llm.budget import FREE, Prices
from bezoar.llm.held import HeldBy, form_keys
from bezoar.llm.openai_format import from_body, to_body
from bezoar.llm.replicas import Replicas
from bezoar.llm.types import Reply, Request
from bezoar.model.structured_output import Kind
from bezoar.secrets import looks_like_key, mask, read_key

if TYPE_CHECKING:
    from bezoar.llm.over_ray import Nodes

_RESERVED = ("messages", "model", "stream", "n", "best_of")
_LENGTHS = ("max_tokens", "max_completion_tokens")
_BATCH = '{"batch": '
_GO_ON = "then run the same command to go on"


@dataclass(frozen=True)
class Batch:
    """A server's batch API (OpenAI's `files` and `batches`): cheaper, and answered within hours."""

    price_share: Fraction = 1.0
    """What is paid of `prices`; 0.5 at OpenAI."""
    max_requests: Count = 50_000
    """Most requests of one batch; a file of them holds at most 100 MB."""
    poll_s: Positive = 30.0
    """Seconds between two looks at how far the server is."""
    window: str = "24h"
    """The time within which the server answers (`completion_window`)."""


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's chat completions: a provider, vLLM, llama.cpp, Ollama, TGI.

    vLLM: run `vllm serve MODEL` on the GPU machine. Whether a server goes on with an answer that
    was begun (`prefill`), and what it must be told for that, is found out by one or two short
    questions before the first such request; one that cannot is asked to begin that way. Choices are
    answered by the probabilities of the first token. Whether a server holds answers to a form
    (`structured`) is found out in the same way, and one that does not is refused.

    Fewer requests are in flight where the server refuses some for overload (429, 503), and none is
    sent before the time of a Retry-After. Several addresses share the requests: one that needs a
    person or answers nothing is left out, and said, until the next run.

    Example: {kind: endpoint, url: "http://localhost:8000/v1", model: my-model, key_env: MY_KEY}
    """

    url: str | tuple[str, ...]
    """Base address, http or https, mostly ending in /v1; never holds a key. Or several where the
    same model is served: the journal knows them all by the first."""
    model: str
    """The model's name on the server."""
    key_env: str = ""
    """The environment variable that holds the API key; empty sends none."""
    concurrency: Count = 32
    """Most requests in flight, to each address."""
    timeout_s: Positive = 120.0
    """Seconds that an answer may take from sending; then the request is sent again."""
    retries: Natural = 5
    """How often a request is sent again after no answer, 429, 5xx or a broken body."""
    backoff_s: NotNegative = 1.0
    """Seconds before the first retry, doubled for each further one; Retry-After can raise it."""
    prices: Prices | None = None
    """What tokens cost, for estimates and the budget; a budget of priced models needs all."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Added to the body of every request, such as {min_p: 0.1}."""
    requests_per_minute: Count | None = None
    """Most requests in a minute that this process sends to each address, spread over it."""
    tokens_per_minute: Count | None = None
    """Most tokens in a minute, of prompts and answers; answers count as they turn out."""
    batch: Batch | None = None
    """Send requests by the batch API; a stopped run finds its batches again."""
    kind: Literal["endpoint"] = "endpoint"

    def __post_init__(self) -> None:
        if not self.urls or len(set(self.urls)) < len(self.urls):
            raise ValueError("url names no address, or one twice; write each once")
        for url in self.urls:
            _check_url(url)
        if self.batch and len(self.urls) > 1:
            raise ValueError("batch works with one address; name one url, or remove batch")
        if self.batch and self.batch.price_share != 1 and not self.prices:
            raise ValueError("batch.price_share has no effect without prices; write them")
        name = self.key_env
        if name and (not re.fullmatch(r"[A-Za-z_]\w*", name) or looks_like_key("", name)):
            what = "key_env is the name of an environment variable, never the key itself"
            raise ValueError(f"{what}; export the key and write the name")
        _check_extra(self.extra)

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        urls = (self.url,) if isinstance(self.url, str) else self.url
        return tuple(url.rstrip("/") for url in urls)

    @property
    def price_share(self) -> float:
        """What is paid of `prices`."""
        return self.batch.price_share if self.batch else 1.0

    @property
    def identity(self) -> str:
        """First address, model and extra settings; never the key."""
        url = self.urls[0]
        return canonical({"kind": self.kind, "url": url, "model": self.model, "extra": self.extra})

    def open(self) -> "EndpointBackend":
        """The backend. EndpointError if the key is not in the environment or cannot be sent."""
        key = read_key(self.key_env, self.urls[0]) if self.key_env else ""
        try:
            self.__post_init__()  # now that the key is known, it is found in url and extra too
        except ValueError as error:
            raise EndpointError(f"{mask(self.urls[0])}: {error}.") from None
        return EndpointBackend(self, key)

    def advice(self, status: int, detail: str) -> tuple[str, str]:
        """(what is wrong with the endpoint, what to do); `status` 0: nobody accepts connections."""
        if not status:
            fix = "start the server" if "refused" in detail else "check the network"
            return detail, f"{fix} or correct the url, {_GO_ON}"
        key = f"the key in {self.key_env}" if self.key_env else "key_env, which is empty"
        address = f"the url, which often ends in /v1, and the model {self.model}"
        known = {
            401: ("the server refuses access", f"check {key}"),
            402: ("the server wants to be paid first", f"see to the account behind {key}"),
            403: ("the server refuses access", f"check {key}"),
            404: ("not found", f"check {address}"),
            429: ("the account has no funds left", f"see to the account behind {key}"),
        }
        if status not in known:
            fix = f"check the url and the server, {_GO_ON}"
            return f"the server answered {status}: {detail}", fix
        what, fix = known[status]
        return f"{what} ({status}: {detail})", f"{fix}, {_GO_ON}"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http or any(character <= " " for character in url):
        raise ValueError("the url is no http address; write one such as http://localhost:8000/v1")
    # the address goes into journals, reports and error messages: no part of it may be a secret
    query = parse_qsl(parts.query, keep_blank_values=True)
    path = [url, *parts.path.split("/")]
    if parts.username or parts.password:
        fault = "holds a password"
    elif any(looks_like_key(name, value) for name, value in query):
        fault = "holds a key in its query"
    elif any(looks_like_key("path", part) for part in path):
        fault = "holds a part that looks like a key"
    elif parts.fragment:
        raise ValueError("the address holds a part behind #, which is never sent; remove it")
    else:
        return
    fix = "put it into an environment variable and name that in key_env"
    raise ValueError(f"the address {fault}; {fix}")


def _check_extra(extra: dict[str, Any]) -> None:
    for name in _RESERVED:
        if name in extra:
            raise ValueError(f"extra: {name} is set by bezoar and cannot stand in extra; remove it")
    for name in _LENGTHS:
        value = extra.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"extra: {name} must be a whole number above 0: it reserves money")
    # extra is part of the identity, which the journal and stage keys hold in plain text
    for name, value in _leaves(extra):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"extra: {name} must be a finite number")
        if looks_like_key(name, value):
            fix = "put it into an environment variable and name that in key_env"
            raise ValueError(f"extra: {name} looks like an API key; {fix}")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, value


class EndpointBackend:
    """A server asked over HTTP: `ask_remote` sends what `body` makes to `path` behind an address,
    and `read` reads replies."""

    path = "/chat/completions"

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        self.endpoint, self.prices, self.api_key = endpoint, endpoint.prices or FREE, api_key
        self.identity = endpoint.identity
        per_minute = endpoint.requests_per_minute or 0, endpoint.tokens_per_minute or 0
        self.replicas = Replicas(endpoint.urls, endpoint.concurrency, per_minute, time.monotonic())
        # None: not known yet, and found out before the first answer is begun
        self.way: Way | None = "flags" if FLAGS.items() <= endpoint.extra.items() else None
        # the key that names a form of each kind; found out before the first such request
        self.held_by: dict[Kind, HeldBy] = {}
        # who sends: this process, or the nodes of a cluster
        self.nodes: Nodes | None = None

    def reach(self, say: Callable[[str], None]) -> None:
        """Make the server ready to be asked: this one is somebody else's."""

    def body(self, request: Request) -> bytes:
        """What is sent. UnicodeEncodeError for a prompt with half of a surrogate pair."""
        extra = self.endpoint.extra
        if FLAGS.items() <= extra.items() and not request.prefill:
            # they are about begun answers: without one the server would go on with the question
            extra = {name: value for name, value in extra.items() if name not in FLAGS}
        body = {"model": self.endpoint.model, **to_body(request, self.way or "turn"), **extra}
        if request.form:
            body |= form_keys(request.form, self.held_by[request.form.kind])
        return json.dumps(body, ensure_ascii=False).encode("utf-8")

    def most_usd(self, request: Request, body: bytes) -> float:
        """Above the request's cost: one token a byte, and the longest answer that it allows."""
        most = len(body) + 16 * (len(request.messages) + 2)
        return self.prices.cost_usd(most, self._longest(request))

    def most_tokens(self, request: Request, body: bytes) -> int:
        """About the most that a request takes: four bytes a token, and the longest answer."""
        return len(body) // 4 + self._longest(request)

    def _longest(self, request: Request) -> int:
        # extra goes over what a request asks for, so its lengths count too
        longest = max(int(self.endpoint.extra.get(name, 0)) for name in _LENGTHS)
        return max(longest, int(to_body(request, self.way or "turn")["max_tokens"]))

    def read(self, body: str, request: Request) -> Reply:
        """The reply in what a server sent, or in what `batch_body` made of it."""
        if not body.startswith(_BATCH):
            return from_body(body, request, self.prices, self.way or "turn")
        # the recipe may say another share by now
        line = json.loads(body)
        share, prices = float(line["price_share"]), self.prices
        usd = (prices.input_usd_per_million * share, prices.output_usd_per_million * share)
        inner = line["body"] if isinstance(line["body"], str) else json.dumps(line["body"])
        return from_body(inner, request, Prices(*usd), self.way or "turn")


def batch_body(batch: str, price_share: float, body: Any) -> str:
    """What the journal holds of an answer in a batch: what was paid of the price is part of it."""
    line = {"batch": batch, "price_share": price_share, "body": body}
    return json.dumps(line, ensure_ascii=False)


def is_of_batch(batch: str, body: str) -> bool:
    """Whether `batch_body` made a body of the journal for this batch."""
    return body.startswith(json.dumps({"batch": batch}, ensure_ascii=False)[:-1] + ",")
