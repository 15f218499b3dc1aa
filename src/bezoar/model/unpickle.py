"""Pickled weights as safetensors: read by a process that can do nothing but read and write them.

torch's `weights_only` reader builds tensors and plain containers and calls no other function. It
runs in a process of its own all the same, to which the kernel refuses sockets, without the keys of
the environment. This module is both sides: `convert_files` asks, `main` runs in the process.
"""

import ctypes
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from bezoar.chat.template_process import PASSED_VARIABLES
from bezoar.errors import DataError

# of linux/prctl.h, linux/seccomp.h and linux/filter.h
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 13  # EACCES
# a machine's number for audits, and that of its call `socket`; io_uring can make sockets too
_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING, _OTHER_ABI = 425, 0x40000000
_BEGUN, _FAULT = "begun\n", "fault:"


def convert_files(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Write files of pickled tensors as safetensors: (pickled, new) of each.

    DataError names the first file that holds anything else.
    """
    variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    variables["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-P", "-m", "bezoar.model.unpickle"]
    command += [str(path) for pair in pairs for path in pair]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    # a line when a file is begun; what was wrong with the last one stands behind them
    begun, _, fault = done.stdout.rpartition(_FAULT)
    if done.returncode:
        number = (begun or done.stdout).count(_BEGUN)
        file = pairs[max(number, 1) - 1][0]
        why = fault.strip() if begun else f"the process that read it ended with {done.returncode}"
        advice = "take the model from another source"
        raise DataError(f"{file}: it cannot be read as weights alone ({why}); {advice}.")


def main(names: Sequence[str]) -> int:
    """Convert the files, two names each; says on standard output where it is and what is wrong."""
    try:
        # before torch starts threads, which would keep theirs
        keep_from_network()
        from bezoar.model.tensors import save_tensors

        for source, target in zip(names[::2], names[1::2], strict=True):
            os.write(1, _BEGUN.encode())
            save_tensors(Path(target), read_pickled(Path(source)))
    # a hostile file can make the reader fail in any way
    except Exception as error:
        os.write(1, f"{_FAULT} {_reason(error)}".encode())
        return 1
    return 0


def _reason(error: Exception) -> str:
    # torch's own words advise to run the code
    if isinstance(error, UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        return f"it asks for {asked[1]}, no tensor" if asked else "it holds more than tensors"
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def keep_from_network() -> None:
    """Have the kernel refuse sockets to this process, for good. OSError if it does not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    audit, call = _CALLS.get(platform.machine(), (0, 0))
    # (code, rules to skip if true, if false, number): a small program of the kernel's own machine
    rules = [
        (_LOAD, 0, 0, 4),
        (_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, 0),
        (_IF_AT_LEAST, 2, 0, _OTHER_ABI),
        (_IF_EQUAL, 1, 0, call),
        (_IF_EQUAL, 0, 1, _IO_URING),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(
        kind.to_bytes(2, sys.byteorder) + bytes((yes, no)) + number.to_bytes(4, sys.byteorder)
        for kind, yes, no, number in rules
    )

    class Program(ctypes.Structure):
        _fields_ = (("size", ctypes.c_ushort), ("rules", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(rules), code)
    if audit:
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)
    try:
        socket.socket().close()
    except PermissionError:
        return
    raise OSError("this kernel does not keep a process from the network; convert on another")


def read_pickled(file: Path) -> dict[str, Any]:
    """The tensors of a file, mapped into memory where its format allows. ValueError for others."""
    import torch

    mapped = zipfile.is_zipfile(file)
    found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"it holds {type(found).__name__}, not tensors by name")
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"{str(name)[:80]} is {type(tensor).__name__}, not a plain tensor")
        # a few numbers that are said to be many would fill the disk
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{str(name)[:80]} has more numbers than the file")
    return {str(name): tensor for name, tensor in found.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
