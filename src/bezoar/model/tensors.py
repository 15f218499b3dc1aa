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
from bezoar.model.folder import reason, some_of

CHECKSUM = "bezoar.crc32"
"""The key of a file's metadata that holds the checksum, if bezoar wrote the file."""


def save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors that share no memory with each other, atomically; durable on return."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(file) as work:
        # one key: the order of several differs from file to file
        save_file(plain, work, metadata={CHECKSUM: _checksum(plain)})


def load_tensors(file: Path, *, ours: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. DataError if it is damaged; with `ours` also if it has no checksum."""
    with _one_sentence(file):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            checksum = (opened.metadata() or {}).get(CHECKSUM)
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if (checksum or ours) and checksum != _checksum(tensors):
        raise DataError(
            f"{file}: its content is not what was written; remove it, and make or fetch it again."
        )
    if not ours:
        refuse_not_finite(tensors, str(file))
    return tensors


def refuse_not_finite(tensors: dict[str, Tensor], source: str) -> None:
    """DataError if a weight is NaN or infinite; the sums read every weight once."""
    odd = [
        name
        for name, tensor in tensors.items()
        if not tensor.sum().isfinite() and not tensor.isfinite().all()
    ]
    if odd:
        raise DataError(
            f"{source}: {some_of(odd)} is not finite (NaN or infinity among its numbers); make or"
            " fetch it again."
        )


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
    with _one_sentence(file):
        from safetensors import safe_open

        opened: Any = safe_open(file, framework="pt")
        return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading `file` into one sentence that names it."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; make or fetch it again.")
    try:
        yield
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
