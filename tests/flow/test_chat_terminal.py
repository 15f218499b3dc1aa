"""A conversation in a real terminal: what Ctrl-C and Ctrl-D end."""

import json
import os
import pty
import select
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from bezoar.cli import main; main()"]


def read_until(handle: int, words: str) -> str:
    """What the terminal shows up to `words`; all of it once its process has ended."""
    seen, end = "", time.monotonic() + 60
    while words not in seen and time.monotonic() < end:
        if select.select([handle], [], [], 0.1)[0]:
            try:
                seen += os.read(handle, 1).decode("latin-1")
            except OSError:  # the terminal has no process any more
                return seen
    assert words in seen, seen
    return seen


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(
    roomy_model: Path, tmp_path: Path
) -> None:
    models = {"base": {"path": str(roomy_model), "dtype": "float32"}}
    tasks = [{"path": "bezoar:choices.jsonl"}]
    stages = {"scores": {"kind": "evaluate", "model": "base", "lm_eval": {"tasks": tasks}}}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "models": models, "stages": stages}))
    pid, handle = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(COMMAND[0], [*COMMAND, "chat", "r.yaml", "--model", "base", "-t", "0"])
    listening = read_until(handle, "you> ")
    assert "base is listening" in listening, listening
    # twice, since a second Ctrl-C ends what cannot be stopped otherwise
    for _ in range(2):
        os.write(handle, b"Hi\n")
        read_until(handle, "Hi\r\n")
        os.read(handle, 1)  # a random model, which writes 512 tokens
        os.write(handle, b"\x03")
        told = read_until(handle, "you> ")
        assert "stopped; this turn is left out of the conversation." in told
    os.write(handle, b"\x04")
    assert "Traceback" not in read_until(handle, "never shown")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
