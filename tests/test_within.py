"""What ends a block of `stop.within`, in a process of its own."""

import signal
import subprocess
import sys

from bezoar.stop import TOLD

SCRIPT = """
import time
from bezoar.stop import leave, listen, within
listen()
try:
    for _ in range(4):
        with within():
            print("in", flush=True)
            time.sleep(60)
except KeyboardInterrupt:
    leave()
"""


def test_ctrl_c_ends_the_block_and_sigterm_the_process() -> None:
    command = [sys.executable, "-c", SCRIPT]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        for _ in range(3):
            assert process.stdout.readline() == "in\n"
            process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert process.stderr.read() == TOLD
