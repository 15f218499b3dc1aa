"""Whether a GGUF file is whole: OpenVINO ends the process that opens a cut one.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import os
import struct
from pathlib import Path
from typing import IO, Any

from bezoar.errors import DataError

# by the number of a value's type; 8 is a text, 9 a list
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

_ALIGNMENT = 32  # of the tensors, at least


def check_gguf(path: Path) -> None:
    """DataError unless all tensors that the head of the file names lie in it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        with path.open("rb") as stream:
            magic, _, num_tensors, num_values = _take(stream, "<4sIQQ")
            if magic != b"GGUF":
                raise DataError(f"{path}: no GGUF file; check the path.")
            for _ in range(num_values):
                _skip_text(stream)
                _skip_value(stream, _take(stream, "<I")[0])
            end = 0
            for _ in range(num_tensors):
                _skip_text(stream)
                shape = _take(stream, f"<{_take(stream, '<I')[0]}Q")
                kind, offset = _take(stream, "<IQ")
                num, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                count = 1
                for length in shape:
                    count *= length
                end = max(end, offset + count // num * size)
            start = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
            whole = start + end <= os.stat(path).st_size
    except (struct.error, KeyError, ValueError, OverflowError, OSError):
        whole = False
    if not whole:
        raise DataError(f"{path}: the GGUF file is cut or damaged; fetch it again.")


def _take(stream: IO[bytes], form: str) -> Any:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _skip_text(stream: IO[bytes]) -> None:
    stream.seek(_take(stream, "<Q")[0], os.SEEK_CUR)


def _skip_value(stream: IO[bytes], kind: int) -> None:
    if kind == 8:
        _skip_text(stream)
    elif kind == 9:
        inner, num = _take(stream, "<IQ")
        if inner in _SIZES:
            stream.seek(_SIZES[inner] * num, os.SEEK_CUR)
        else:
            for _ in range(num):
                _skip_value(stream, inner)
    else:
        stream.seek(_SIZES[kind], os.SEEK_CUR)
