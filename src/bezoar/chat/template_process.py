"""Applies strangers' chat templates in a process of its own: JSON lines in, JSON lines out.

A template is a program that may never end. In the process the kernel bounds its computing time and
memory, whatever it does and whichever thread of bezoar asked; no secret of the environment is there
either. This module is both sides: `apply_template` asks, `main` runs in the process.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from bezoar.errors import DataError

_SECONDS = 2.0  # of computing per conversation, which takes milliseconds
_BYTES = 2**29  # of memory for the template, beside what the process takes by itself
# the environment may hold keys
PASSED_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")


def apply_template(
    tokenizer: Any,
    rows: list[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    tools: list[dict[str, Any]] | None = None,
    continue_final_message: bool = False,
) -> str:
    """The text of a conversation, as `tokenizer.apply_chat_template` of transformers writes it with
    `enable_thinking=False`, which most templates do not know.

    DataError if the template fails, or was stopped: it took too long, too much memory or text.
    """
    origin = f" of {tokenizer.name_or_path}" if tokenizer.name_or_path else ""
    name = f"template hub: the chat template{origin}"
    options = {
        **tokenizer.special_tokens_map,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "enable_thinking": False,
        "tools": tools or None,
    }
    try:
        if not rows:
            raise ValueError("the conversation is empty")
        request = {"rows": rows, "template": tokenizer.get_chat_template(), "options": options}
        reply = _apply(json.dumps(request, default=str))
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
def _apply(request: str) -> dict[str, str]:
    return _process.ask(request)


class _TemplateProcess:
    """The asking side: it starts the process for the first request, and again after a stop."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.forget()

    def forget(self) -> None:
        """Leave the process to the parent of a fork."""
        # referenced, or it would be reaped as one of ours
        self._child_of_parent = self.child
        self._lock, self.child = Lock(), None

    def ask(self, request: str) -> dict[str, str]:
        """The reply to a request, a line of JSON; {"stopped": why} if the process ended."""
        with self._lock:
            try:
                child = self.child = self.child or self._start()
                assert child.stdin
                assert child.stdout
                child.stdin.write(request.encode() + b"\n")
                child.stdin.flush()
                reply = child.stdout.readline()
            except BrokenPipeError:
                reply = b""
            except BaseException:
                # a reply that nobody waits for would be taken for the next one
                self.stop()
                raise
            return dict(json.loads(reply)) if reply else {"stopped": _reason(self.stop())}

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        own = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "bezoar.chat.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**variables, **own},
            # Ctrl-C stops bezoar with grace and must not stop what it still needs; the process
            # ends with its input
            start_new_session=True,
        )
        if child.stdout and child.stdout.readline() == b"ready\n":
            return child
        child.kill()
        fault = "the process that applies chat templates did not start"
        raise DataError(f"template hub: {fault} (exit code {child.wait()}); use chatml.")

    def stop(self) -> int:
        """End the process; its exit code."""
        child, self.child = self.child, None
        if child is None:
            return 0
        for stream in (child.stdin, child.stdout):
            if stream:
                stream.close()
        if child.poll() is None:
            child.kill()
        return child.wait()


def _reason(exit_code: int) -> str:
    if exit_code == -signal.SIGPROF:
        return f"it took more than {_SECONDS:g} s of computing"
    name = signal.Signals(-exit_code).name if exit_code < 0 else exit_code
    return f"its process ended with {name}"


def main() -> None:
    """Answer requests until standard input ends; the kernel ends a request that takes too long."""
    from transformers.utils.chat_template_utils import render_jinja_template

    # the limit counts what is mapped already, the imported libraries included
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
    # a core file could hold what users wrote
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # this timer counts computing, not waiting for requests, and its signal ends the process
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        reply = _reply(render_jinja_template, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


def _reply(render: Any, request: dict[str, Any]) -> str:
    try:
        rows, template, options = request["rows"], request["template"], request["options"]
        [text], _ = render([rows], chat_template=template, **options)
        # what is written should be the conversation and little more
        if len(text) > 10**6 + 8 * sum(len(row["content"]) for row in rows):
            return json.dumps({"stopped": f"it wrote {len(text)} characters"})
        return json.dumps({"text": text})
    except MemoryError:
        return json.dumps({"stopped": f"it took more than {_BYTES >> 20} MiB of memory"})
    except Exception as error:  # a template may fail in any way, and says why in its own words
        return json.dumps({"error": str(error)[:1000] or type(error).__name__})


_process = _TemplateProcess()
os.register_at_fork(after_in_child=_process.forget)
atexit.register(_process.stop)

if __name__ == "__main__":
    main()
