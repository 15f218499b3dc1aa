"""Which questions were counted before, in eight bytes each: a stage asks millions, part by part."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


class Distinct:
    """The journal keys (16 hex digits) that were added."""

    def __init__(self) -> None:
        self._added: list[npt.NDArray[np.uint64]] = []

    def add(self, keys: Iterable[str]) -> None:
        """Remember `keys`."""
        self._added.append(_numbers(keys))

    def among(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that were added."""
        found, numbers = np.zeros(len(keys), bool), _numbers(keys)
        for added in self._added:
            found |= np.isin(numbers, added)
        return {key for key, is_there in zip(keys, found, strict=True) if is_there}


def _numbers(keys: Iterable[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(key, 16) for key in keys], np.uint64)
