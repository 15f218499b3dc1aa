"""Tensors that lie in parts over ranks as safetensors files, each rank its own part, by torch's
distributed checkpoints; any number of ranks, one included, reads them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bezoar.errors import DataError, first_line


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's parts; the first rank returns when all have written theirs."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    # torch's own format holds a pickle
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(dict(tensors), storage_writer=writer)


def sizes(folder: Path) -> dict[str, int]:
    """The sizes of its files, by which a cut one is known."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


def read(
    folder: Path, wanted: Mapping[str, int], like: Callable[[str, tuple[int, ...]], Tensor]
) -> dict[str, Tensor]:
    """The tensors of a folder, each in the form of `like(name, shape)`, which it is read into.

    DataError if files are not those of the `wanted` sizes or cannot be read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if sizes(folder) != wanted:
        raise DataError(f"{folder}: its files are not those that were written; remove it.")
    try:
        found: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        tensors = {name: like(name, tuple(about.size)) for name, about in found.items()}
        # each rank reads its own: nobody is waited for, and a fault is one rank's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = HuggingFaceStorageReader(str(folder))
            load(tensors, storage_reader=reader, no_dist=True)
    except Exception as error:
        raise DataError(f"{folder}: it cannot be read ({first_line(error)}); remove it.") from error
    return tensors
