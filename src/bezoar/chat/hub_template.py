"""The chat template that came with a tokenizer, applied in a process that is stopped when the
template does not end."""

import atexit
import json
import os
import signal
import subprocess
import sys
from functools import lru_cache
from threading import Lock
from typing import Any

from bezoar.chat.template_child import SECONDS
from bezoar.errors import DataError

_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
"""Of the environment, which may hold keys, the process gets these alone."""


def apply(inner: Any, rows: list[dict[str, str]], *, opening: bool, going_on: bool = False) -> str:
    """The text of a conversation by the template of a transformers tokenizer, `opening` the answer
    or `going_on` with the last turn.

    DataError, with the template's place, when it fails, or is stopped because it takes too long,
    too much memory or writes too much.
    """
    name = f"the chat template{f' of {inner.name_or_path}' if inner.name_or_path else ''}"
    try:
        if not rows:
            raise ValueError("the conversation is empty")
        template = inner.get_chat_template()
        options = {
            **inner.special_tokens_map,
            "add_generation_prompt": opening,
            "continue_final_message": going_on,
        }
        reply = _applied(template, json.dumps({"rows": rows, "options": options}, default=str))
    # no template by the name that is asked for, or a special token that is no text
    except (ValueError, TypeError, UnicodeError) as error:
        reply = {"error": str(error)}
    if "stopped" in reply:
        raise DataError(
            f"template hub: {name} was stopped, for {reply['stopped']} on one conversation; use"
            " chatml."
        )
    if "error" in reply:
        told = "".join(c if c.isprintable() else " " for c in reply["error"])
        raise DataError(
            f"template hub: {name} refuses a conversation ({told.strip()}); use chatml."
        )
    return str(reply["text"])


# rendering a chat, its prompts and its proof asks for the same several times
@lru_cache(maxsize=256)
def _applied(template: str, request: str) -> dict[str, str]:
    return _process.ask(template, request)


class _TemplateProcess:
    """A process of template_child, started when it is first asked, and again after it had to be
    stopped."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave a process that belongs to another one, as after a fork."""
        self._left = getattr(self, "_running", None)
        self._lock, self._running, self._template = Lock(), None, ""

    def ask(self, template: str, request: str) -> dict[str, str]:
        """What the process replies to {"rows", "options"}; {"stopped": why} where it ended
        instead."""
        with self._lock:
            try:
                running = self._running = self._running or self._start()
                news = {"template": template} if template != self._template else {}
                line = json.dumps({**json.loads(request), **news}).encode() + b"\n"
                self._template = template
                running.stdin.write(line)
                running.stdin.flush()
                reply = running.stdout.readline()
            except BrokenPipeError:
                reply = b""
            except BaseException:
                self.stop()  # a reply that nobody waits for would be taken for the next one
                raise
            if not reply:
                return {"stopped": _reason(self.stop())}
            found: dict[str, str] = json.loads(reply)
            return found

    def _start(self) -> Any:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        running = subprocess.Popen(
            [sys.executable, "-P", "-m", "bezoar.chat.template_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            # what stops bezoar with grace must not stop what it still needs; the end of the input
            # ends it
            start_new_session=True,
        )
        self._template = ""
        if running.stdout.readline() != b"ready\n":  # type: ignore[union-attr]
            running.kill()
            raise DataError(
                "template hub: the process that applies chat templates did not start (exit code"
                f" {running.wait()}); use chatml."
            )
        return running

    def stop(self) -> int:
        """End the process; its exit code."""
        running, self._running = self._running, None
        if running is None:
            return 0
        running.stdin.close()
        running.stdout.close()
        if running.poll() is None:
            running.kill()
        return int(running.wait())


def _reason(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"it took more than {SECONDS:g} s of computing"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else code}"


_process = _TemplateProcess()
os.register_at_fork(after_in_child=_process.forget)
atexit.register(_process.stop)
