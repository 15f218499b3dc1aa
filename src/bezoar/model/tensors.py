"""Files of tensors: damaged ones are refused by name, own ones are checked by a checksum."""

import zlib
from collections.abc import Iterator
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


def save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors that share no memory with each other, atomically; durable on return."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(file) as work:
        # one key: the order of several differs from file to file
        save_file(plain, work, metadata={CHECKSUM: _checksum(plain)})


def load_tensors(file: Path, *, ours: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. DataError if it is damaged; with `ours` also if it has no checksum."""
    with _opened(file) as opened:
        checksum = (opened.metadata() or {}).get(CHECKSUM)
        tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if (checksum or ours) and checksum != _checksum(tensors):
        fault = "its content is not what was written"
        raise DataError(f"{file}: {fault}; remove it, and make or fetch it again.")
    if not ours:
        refuse_not_finite(tensors, str(file))
    return tensors


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


def _checksum(tensors: dict[str, Tensor]) -> str:
    """8 hex digits of names, types, shapes and values: fast, and enough against accidents."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}\0"
        value = zlib.crc32(header.encode("utf-8", "surrogatepass"), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
