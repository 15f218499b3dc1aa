"""Files of tensors: damaged ones are refused by name, own ones are checked by a checksum."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.io import atomic_file, set_aside
from bezoar.model.resolve import reason, some_of

# the key of a file's metadata that holds the checksum, if bezoar wrote the file
CHECKSUM = "bezoar.crc32"
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tensors(
    file: Path, tensors: Mapping[str, Tensor], *, read: Callable[[str], Tensor] | None = None
) -> None:
    """Write tensors atomically; durable on return. One at a time leaves its device: a file of any
    size needs the memory of its largest tensor, and on a CPU none.

    With `read`, which is called in the order of names, `tensors` have shapes and types alone.
    """
    # 1) where each lies: wide types first, so that every tensor is aligned
    offsets, end = dict[str, tuple[int, int]](), 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        offsets[name] = end, end + tensors[name].numel() * tensors[name].element_size()
        end = offsets[name][1]
    with atomic_file(file) as work, work.open("r+b") as stream:
        # 2) the header, with room for the checksum: what it sums is seen only while it is written
        start = stream.write(_header(tensors, offsets, checksum=0))
        # 3) the values, in the order of the checksum
        value = 0
        for name, tensor in sorted(tensors.items()):
            found = read(name) if read else tensor
            if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
                raise ValueError(f"{name} is {found.dtype} {found.shape}, not as declared")
            data = _bytes(found)
            value = _add(value, name, tensor, data)
            stream.seek(start + offsets[name][0])
            stream.write(data)
        stream.seek(0)
        stream.write(_header(tensors, offsets, checksum=value))


def _header(
    tensors: Mapping[str, Tensor], offsets: Mapping[str, tuple[int, int]], *, checksum: int
) -> bytes:
    """The beginning of a safetensors file: the size of the JSON behind it, which is padded to 8."""
    # one key of metadata: other writers order several differently from file to file
    header: dict[str, Any] = {"__metadata__": {CHECKSUM: f"{checksum:08x}"}}
    for name, place in offsets.items():
        dtype, shape = _TYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_tensors(file: Path, *, ours: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. DataError if it is damaged; with `ours` also if it has no checksum."""
    return dict(checked_tensors(file, ours=ours))


def checked_tensors(file: Path, *, ours: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a file, one at a time; see `load_tensors`."""
    with _opened(file) as opened:
        checksum, value = (opened.metadata() or {}).get(CHECKSUM), 0
        for name in sorted(opened.keys()):
            tensor = opened.get_tensor(name)
            if checksum or ours:
                value = _add(value, name, tensor, _bytes(tensor))
            if not ours:
                refuse_not_finite({name: tensor}, str(file))
            yield name, tensor
    if (checksum or ours) and checksum != f"{value:08x}":
        fault = "its content is not what was written"
        raise DataError(f"{file}: {fault}; remove it, and make or fetch it again.")


def refuse_not_finite(tensors: dict[str, Tensor], source: str) -> None:
    """DataError if a weight is NaN or infinite."""
    # the sum is faster, but finite weights can overflow it
    odd = [n for n, x in tensors.items() if not x.sum().isfinite() and not x.isfinite().all()]
    if odd:
        fault = f"{some_of(odd)} is not finite (NaN or infinity among its numbers)"
        raise DataError(f"{source}: {fault}; make or fetch it again.")


def kept_tensors(file: Path) -> dict[str, Tensor] | None:
    """What `save_tensors` kept in a file; None if it is absent, or damaged and now set aside."""
    if not file.exists():
        return None
    try:
        return load_tensors(file, ours=True)
    except DataError as error:
        set_aside(file, error)
        return None


def open_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a file as slices, each read when it is used. DataError if it is damaged."""
    with _opened(file) as opened:
        return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The reader of a file; whatever goes wrong inside becomes one sentence that names the file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; make or fetch it again.")
    try:
        from safetensors import safe_open

        yield safe_open(file, framework="pt")
    except OSError as error:
        fault = error.strerror or error
        raise DataError(f"{file}: cannot be read ({fault}); check the file.") from None
    # safetensors has its own error type, and torch raises others for types that it does not know
    except Exception as error:
        with file.open("rb") as stream:
            pointer = stream.read(22) == b"version https://git-lf"
        kind = f"not a safetensors file ({reason(error)})"
        kind = "a Git LFS pointer, not the data" if pointer else kind
        raise DataError(f"{file}: this is {kind}; make or fetch it again.") from None


def _add(checksum: int, name: str, tensor: Tensor, data: memoryview) -> int:
    header = f"{name} {tensor.dtype} {tuple(tensor.shape)}\0"
    return zlib.crc32(data, zlib.crc32(header.encode("utf-8", "surrogatepass"), checksum))


def _bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor; without a copy if it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: memoryview = flat.view(torch.uint8).numpy().data
    return data
