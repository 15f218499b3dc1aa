"""Progress that ends a training from within, as Ctrl-C would."""

from dataclasses import dataclass
from typing import Any

from bezoar.progress import Progress


class StopError(Exception):
    """Raised behind the log line of a step."""


@dataclass
class Stopping(Progress):
    """Raises StopError once a step is logged."""

    at_step: int = 1

    def log(self, **values: Any) -> None:
        super().log(**values)
        if values["step"] == self.at_step:
            raise StopError
