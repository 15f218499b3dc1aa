"""What a stage that runs models reads of its context, without a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bezoar.chat.templates import ChatML, Template
from bezoar.chat.types import Messages
from bezoar.model.completions import draw_completions
from bezoar.model.spec import Sampling
from bezoar.progress import Progress


@dataclass
class ToyContext:
    """Models by name, and the other parts of a `StageContext` that change rows."""

    open_model: Callable[[str], Any]
    progress: Progress = field(default_factory=lambda: Progress("s"))
    seed: int = 0
    template: Template = field(default_factory=ChatML)

    def draw(
        self, name: str, prompts: Sequence[Messages], sampling: Sampling, num: int
    ) -> list[list[tuple[str, bool]] | None]:
        stack = self.open_model(name)
        return draw_completions(stack, self.template, prompts, sampling, num=num, seed=self.seed)
