"""The process in which chat templates of strangers are applied: a JSON request per line on standard
input, a JSON reply per line.

A template is a program that may never end. Here the kernel bounds its computing time and memory,
whatever it does and whichever thread of bezoar asked; no secret of the environment is here either.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Of computing per conversation, which takes milliseconds; SIGPROF ends the process after it."""
_BYTES = 2**29
"""Of memory for the template, beside what the process takes by itself."""


def main() -> None:
    """Answer requests until standard input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    template = ""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        template = request.pop("template", template)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        reply = _reply(render_jinja_template, template, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


def _reply(render: Any, template: str, request: dict[str, Any]) -> bytes:
    try:
        [text], _ = render([request["rows"]], chat_template=template, **request["options"])
        # what is written should be the conversation and little more
        most = 10**6 + 8 * sum(len(row["content"]) for row in request["rows"])
        if len(text) > most:
            return json.dumps({"stopped": f"it wrote {len(text)} characters"}).encode()
        return json.dumps({"text": text}).encode()
    except MemoryError:
        return json.dumps({"stopped": f"it took more than {_BYTES >> 20} MiB of memory"}).encode()
    except Exception as error:  # a template may fail in any way, and says why in its own words
        return json.dumps({"error": str(error)[:1000] or type(error).__name__}).encode()


if __name__ == "__main__":
    main()
