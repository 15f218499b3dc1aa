"""Files of tensors: a damaged one is refused by name, and what is written here outlives a power cut
and is known again by its sum."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bezoar.errors import DataError
from bezoar.io import atomic_file, set_aside
from bezoar.model.folder import named, reason

SUM = "bezoar.crc32"
"""The key of a file's metadata that holds the sum of its content, where the file was written
here."""


def save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors that share no memory with each other, atomically; durable on return."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(file) as work:
        # one key: the order of several differs from file to file
        save_file(plain, work, metadata={SUM: _sum(plain)})


def load_tensors(file: Path, *, ours: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. DataError when it is damaged; with `ours` also when it has no sum."""
    with _told(file):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            told = (opened.metadata() or {}).get(SUM)
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if told != _sum(tensors) if told or ours else False:
        raise DataError(
            f"{file}: its content is not what was written; remove it, and make or fetch it again."
        )
    if not ours:
        refuse_not_finite(tensors, str(file))
    return tensors


def refuse_not_finite(tensors: dict[str, Tensor], place: str) -> None:
    """DataError where a weight is NaN or infinite, with which all that is computed is nothing; the
    sums read every weight once."""
    if odd := [
        name
        for name, tensor in tensors.items()
        if not tensor.sum().isfinite() and not tensor.isfinite().all()
    ]:
        raise DataError(
            f"{place}: {named(odd)} is not finite (NaN or infinity among its numbers); make or"
            " fetch it again."
        )


def kept_tensors(file: Path) -> dict[str, Tensor] | None:
    """What `save_tensors` kept in a file; None where there is none, or where it is damaged and was
    set aside."""
    if not file.exists():
        return None
    try:
        return load_tensors(file, ours=True)
    except DataError as error:
        set_aside(file, error)
        return None


def open_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a file as slices, which are read when they are asked for. DataError when the
    file is damaged."""
    with _told(file):
        from safetensors import safe_open

        opened: Any = safe_open(file, framework="pt")
        return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what goes wrong in reading `file` into one sentence that names it."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; make or fetch it again.")
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror or error}); check the file."
        ) from None
    # the reader has an error type of its own, and torch raises others for types that it does not
    # know
    except Exception as error:
        with file.open("rb") as stream:
            pointer = stream.read(22) == b"version https://git-lf"
        what = (
            "a Git LFS pointer, not the data"
            if pointer
            else f"not a safetensors file ({reason(error)})"
        )
        raise DataError(f"{file}: this is {what}; make or fetch it again.") from None


def _sum(tensors: dict[str, Tensor]) -> str:
    """8 hex digits of names, types, shapes and values: enough against accidents, at several
    gigabytes a second."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(
            f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode("utf-8", "surrogatepass"), found
        )
        found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
