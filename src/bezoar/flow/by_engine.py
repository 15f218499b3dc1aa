"""Answers of a recipe's models by its engine, in a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bezoar.chat.types import Messages
from bezoar.flow.recipe import Recipe, lineage, trained
from bezoar.llm.pool import Pool
from bezoar.llm.types import Request
from bezoar.model.spec import Sampling
from bezoar.progress import Progress
from bezoar.rng import seed_for
from bezoar.stage import Stats

if TYPE_CHECKING:
    from bezoar.llm.engine import EngineBackend
    from bezoar.model.stack import Stack


def most_rank(recipe: Recipe) -> int:
    """Of any training stage's adapters as one; 0 without adapters."""
    names = [name for name, stage in recipe.stages.items() if stage.gives == "model"]
    adapters = [[trained(recipe, s.name).adapter for s in lineage(recipe, n)] for n in names]
    return max((sum(each.r for each in some if each) for some in adapters), default=0)


def draw(
    pool: Pool, prompts: Sequence[Messages], sampling: Sampling, *, num: int, seed: int
) -> list[list[tuple[str, bool]] | None]:
    """`model.completions.draw_completions`, asked of an engine behind its journal."""
    seeds = [seed_for(seed, number) for number in range(num)]
    requests = [Request.sampled(p, sampling, each) for p in prompts for each in seeds]
    replies = iter(pool.ask_all(requests))
    drawn: list[list[tuple[str, bool]] | None] = []
    for _ in prompts:
        some = [next(replies) for _ in seeds]
        answers = [(reply.text, reply.finish == "stop") for reply in some]
        drawn.append(None if any(reply.finish == "error" for reply in some) else answers)
    return drawn


def difference(backend: "EngineBackend", stack: "Stack", progress: Progress) -> Stats:
    """How far the engine is from what training computes, on what it has just drawn; told."""
    numbers = backend.difference(stack)
    if numbers:
        progress.log(event="engine", **numbers)
        gap = f"{numbers['kl_mean']:.2g} nats a token ({numbers['kl_max']:.2g} at most)"
        progress.say(f"  {progress.stage}: the engine differs from training by {gap}")
    return numbers
