"""vLLM servers that bezoar starts when they are first asked, and stops."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError

from bezoar.errors import EndpointError, RecipeError, UnfinishedError, brief
from bezoar.io import cache_dir
from bezoar.llm import watched

COMMAND_ENV = "BEZOAR_VLLM"
"""The environment variable that names vLLM's command."""
SERVED = "model"
"""The name of a server's model in requests."""
_POLL_S, _MOMENT_S = 0.2, 3.0
_STOP_S, _LONGEST_S = 30.0, 600.0
_TAIL = 1200  # characters of a log that a message quotes
_TAIL_LINES = 6
Say = Callable[[str], None]


def vllm_command() -> str:
    """vLLM's command. RecipeError, which says how to install it, without one."""
    named = os.environ.get(COMMAND_ENV, "")
    found = shutil.which(named or "vllm")
    if found is None:
        what = f"{COMMAND_ENV} names {named}, which is no command" if named else "there is no vllm"
        fix = f"`pip install vllm` in an environment of its own and set {COMMAND_ENV} to its"
        raise RecipeError(f"kind: vllm: {what}; {fix} bin/vllm, or put that on the PATH.")
    return found


class Server:
    """A vLLM server on 127.0.0.1. `url` ends in /v1; `key` is its API key, known to nobody else.

    EndpointError, with the end of its log, if it ends before it answers or takes `start_s`.
    """

    def __init__(self, arguments: Sequence[str], log: Path, *, start_s: float) -> None:
        self.log, self.key, self._adapters = log, secrets.token_hex(16), dict[str, str]()
        self._num_adapters = 0
        # another process could take the port before vLLM does, which would end saying so; and its
        # server would not know the key
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._root = f"http://127.0.0.1:{port}"
        self.url = f"{self._root}/v1"
        # no proxy stands between this machine and itself
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        where = ["--host", "127.0.0.1", "--port", str(port)]
        command = [vllm_command(), "serve", *arguments, *where]
        settings = {"VLLM_API_KEY": self.key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                # -P: the names of modules beside the file are not those of Python's library
                [sys.executable, "-P", watched.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **quiet, **settings},
                start_new_session=True,  # Ctrl-C is for this process, which stops it
            )
        try:
            self._wait(start_s)
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def has_ended(self) -> bool:
        """Whether it has, or does within a moment: connections end before the process."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_MOMENT_S)
        return not self.alive

    def end_of_log(self) -> str:
        """The last lines of the log, on one line."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4 * _TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
        return brief(" | ".join(line.strip() for line in lines if line.strip())[-_TAIL:], _TAIL)

    def context_length(self) -> int:
        """The most tokens of a prompt and its answer."""
        headers = {"Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.url}/models", headers=headers)
        with self._http.open(request, timeout=60) as reply:
            return int(json.load(reply)["data"][0]["max_model_len"])

    def load_adapter(self, folder: Path) -> str:
        """The name under which requests reach the adapter in a folder; anew for each call, since
        cached prefixes go by the name (vllm#42125). EndpointError if vLLM refuses it."""
        self._num_adapters += 1
        name = f"adapter-{self._num_adapters}"
        self._change("load_lora_adapter", lora_name=name, lora_path=str(folder.resolve()))
        self._adapters[name] = str(folder)
        return name

    def unload_adapter(self, name: str) -> None:
        """The reverse; a server that has ended needs none."""
        if self._adapters.pop(name, None) and self.alive:
            self._change("unload_lora_adapter", lora_name=name)

    def unload_all(self) -> None:
        """Unload every adapter."""
        for name in list(self._adapters):
            self.unload_adapter(name)

    def stop(self) -> None:
        """End it, with all that it started."""
        pipe = self._process.stdin
        assert pipe is not None
        # which `watched` takes as the end of this process
        pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self._process.kill()
        self._process.wait()

    def _wait(self, start_s: float) -> None:
        end = time.monotonic() + start_s
        while self.alive and time.monotonic() < end:
            with suppress(OSError), self._http.open(f"{self._root}/health", timeout=5):
                return
            time.sleep(_POLL_S)
        what = f"took more than {start_s:g} s to start" if self.alive else "ended as it started"
        fix = "correct the model or `flags`, or raise start_s"
        raise EndpointError(f"{self.log}: vLLM {what} ({self.end_of_log()}); {fix}.")

    def complete(self, body: Mapping[str, Any], timeout_s: float, retries: int) -> Any:
        """The reply to a request for a completion, sent again up to `retries` times. EndpointError
        if vLLM refuses it, UnfinishedError if no reply comes."""
        for left in reversed(range(retries + 1)):
            try:
                return json.loads(self._post("completions", body, "answer", timeout_s))
            except (UnfinishedError, ValueError) as error:
                if left and self.alive:
                    time.sleep(_POLL_S)
                elif isinstance(error, UnfinishedError):
                    raise
        fault = "vLLM sends broken JSON; see the log"
        raise UnfinishedError(f"{self.log}: {fault}, and run the same command to go on.")

    def _change(self, path: str, **body: str) -> None:
        self._post(path, body, f"{path.replace('_', ' ')} {body}")

    def _post(
        self, path: str, body: Mapping[str, Any], what: str, timeout_s: float = _LONGEST_S
    ) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
        try:
            with self._http.open(request, timeout=timeout_s) as reply:
                data: bytes = reply.read()
                return data
        except (OSError, HTTPException) as error:
            why: Any = error
            if isinstance(error, HTTPError):
                with suppress(OSError, HTTPException):
                    why = brief(error.read(2000).decode(errors="replace"))
            elif self.has_ended():
                why = f"it has ended ({self.end_of_log()})"
            fault = f"{self.log}: vLLM does not {what}: {why}; see the log"
            if isinstance(error, HTTPError) and error.code < 500 and error.code != 429:
                raise EndpointError(f"{fault}.") from None
            raise UnfinishedError(f"{fault}, and run the same command to go on.") from None


class Servers:
    """The servers of a run, one for each name; their logs lie in `folder`, by default the cache."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._running: dict[str, tuple[list[str], Server]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def get(self, model: str, arguments: Sequence[str], start_s: float, say: Say) -> Server:
        """The server of a model with these arguments, started if it is not there; one of the same
        model with others is stopped first."""
        known, server = self._running.get(model, (None, None))
        if server and known == list(arguments) and server.alive:
            return server
        if server:
            self._running.pop(model)[1].stop()
        log = (self.folder or cache_dir() / "servers") / f"vllm-{Path(model).name}.log"
        say(f"  vLLM starts with {model}; its log is {log}")
        started = time.monotonic()
        server = Server([model, *arguments], log, start_s=start_s)
        say(f"  vLLM answers after {time.monotonic() - started:.0f} s")
        self._running[model] = (list(arguments), server)
        return server

    def unload_all(self) -> None:
        """Unload every adapter that was handed to a server."""
        for _, server in self._running.values():
            server.unload_all()

    def stop(self) -> None:
        """Stop all, which frees the device."""
        while self._running:
            self._running.popitem()[1][1].stop()


def command_line(flags: Mapping[str, Any]) -> list[str]:
    """Flags by name as arguments: true stands alone, false has `no-` before it, a table is JSON."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            words += [f"--{name}", text]
    return words
