"""What a stage that runs models reads of its context, without a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bezoar.chat.templates import ChatML, Template
from bezoar.progress import Progress


@dataclass
class ToyContext:
    """Models by name, and the other parts of a `StageContext` that change rows."""

    open_model: Callable[[str], Any]
    progress: Progress = field(default_factory=lambda: Progress("s"))
    seed: int = 0
    template: Template = field(default_factory=ChatML)
