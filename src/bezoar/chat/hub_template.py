"""Applies the chat template that came with a tokenizer, in a process that is stopped when the
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

# the environment may hold keys, and a template is a program of strangers
_PASSED_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")


def apply_template(
    tokenizer: Any,
    rows: list[dict[str, str]],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool = False,
) -> str:
    """The text of a conversation, as `tokenizer.apply_chat_template` of transformers writes it.

    DataError names the template when it fails, or is stopped because it takes too long, too much
    memory or writes too much.
    """
    origin = f" of {tokenizer.name_or_path}" if tokenizer.name_or_path else ""
    name = f"template hub: the chat template{origin}"
    options = {
        **tokenizer.special_tokens_map,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
    }
    try:
        if not rows:
            raise ValueError("the conversation is empty")
        template = tokenizer.get_chat_template()
        reply = _apply(template, json.dumps({"rows": rows, "options": options}, default=str))
    # no template of that name, or a special token that is no text
    except (ValueError, TypeError, UnicodeError) as error:
        reply = {"error": str(error)}
    if "stopped" in reply:
        reason = reply["stopped"]
        raise DataError(f"{name} was stopped, for {reason} on one conversation; use chatml.")
    if "error" in reply:
        reason = "".join(c if c.isprintable() else " " for c in reply["error"]).strip()
        raise DataError(f"{name} refuses a conversation ({reason}); use chatml.")
    return str(reply["text"])


# rendering a chat, and checking its labels, asks for the same texts several times
@lru_cache(maxsize=256)
def _apply(template: str, request: str) -> dict[str, str]:
    return _process.ask(template, request)


class _TemplateProcess:
    """A process of template_child: started by the first request, and again after it was stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.forget()

    def forget(self) -> None:
        """Leave the process to the parent of a fork."""
        self._of_parent = self._process  # referenced, or it would be reaped as a child of ours
        self._lock, self._process, self._template = Lock(), None, ""

    def ask(self, template: str, request: str) -> dict[str, str]:
        """The reply to {"rows", "options"} as JSON; {"stopped": why} where the process ended."""
        with self._lock:
            try:
                process = self._process = self._process or self._start()
                assert process.stdin
                assert process.stdout
                # the child keeps the template, so that it is sent only when it is another
                new_template = {"template": template} if template != self._template else {}
                self._template = template
                line = json.dumps({**json.loads(request), **new_template})
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = b""
            except BaseException:
                self.stop()  # a reply that nobody waits for would be taken for the next one
                raise
            if not reply:
                return {"stopped": _reason(self.stop())}
            return dict(json.loads(reply))

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        own = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bezoar.chat.template_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**variables, **own},
            # Ctrl-C stops bezoar with grace and must not stop what it still needs; the child ends
            # with its input
            start_new_session=True,
        )
        self._template = ""
        if not process.stdout or process.stdout.readline() != b"ready\n":
            process.kill()
            raise DataError(
                "template hub: the process that applies chat templates did not start (exit code"
                f" {process.wait()}); use chatml."
            )
        return process

    def stop(self) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
        if process.poll() is None:
            process.kill()
        return process.wait()


def _reason(exit_code: int) -> str:
    if exit_code == -signal.SIGPROF:
        return f"it took more than {SECONDS:g} s of computing"
    name = signal.Signals(-exit_code).name if exit_code < 0 else exit_code
    return f"its process ended with {name}"


_process = _TemplateProcess()
os.register_at_fork(after_in_child=_process.forget)
atexit.register(_process.stop)
