"""Which stage may spend how much of a recipe's budget."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from bezoar.cost import dollars
from bezoar.errors import BudgetError
from bezoar.flow.acceptance import accepting
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal


class Limit(NamedTuple):
    """US dollars that a run may have spent when a stage ends, and how they are called."""

    usd: float | None
    words: str = ""
    raise_key: str = "budget_usd"
    """The recipe key that sets them."""


def limit_of(
    recipe: Recipe, stage: str, waiting: Iterable[str], spent_usd: Callable[[str], float]
) -> Limit:
    """What `stage` may spend while the stages `waiting` are still to run.

    `spent_usd` says what a stage of the run has spent, all of them for "". What `budgets` names for
    a stage that waits is set aside for it.
    """
    own, limits = owner(recipe, stage), list[Limit]()
    # a stage and its repeats share its money
    spent = {
        name: sum(spent_usd(each) for each in recipe.stages if owner(recipe, each) == name)
        for name in recipe.budgets
    }
    if recipe.budget_usd is not None:
        owners = {owner(recipe, each) for each in waiting} - {own}
        later = [name for name in spent if name in owners]
        kept = {name: max(recipe.budgets[name] - spent[name], 0.0) for name in later}
        words = f"the budget of {dollars(recipe.budget_usd)} USD"
        if sum(kept.values()):
            words += f", less {dollars(sum(kept.values()))} USD for {', '.join(kept)},"
        limits.append(Limit(max(recipe.budget_usd - sum(kept.values()), 0.0), words))
    if own in recipe.budgets:
        left_usd = max(recipe.budgets[own] - spent[own], 0.0)
        words = f"the budget of {dollars(recipe.budgets[own])} USD for {own}"
        limits.append(Limit(spent_usd("") + left_usd, words, f"budgets.{own}"))
    return min(limits, key=lambda limit: limit.usd or 0.0, default=Limit(None))


def owner(recipe: Recipe, stage: str) -> str:
    """The stage of the recipe file whose money a stage spends."""
    return recipe.repeated[stage].stage if stage in recipe.repeated else stage


def divided(recipe: Recipe) -> str:
    """How the budget is divided, for people."""
    if recipe.budget_usd is None and not recipe.budgets:
        return "none set"
    named = [f"{name} {dollars(usd)}" for name, usd in recipe.budgets.items()]
    if recipe.budget_usd is None:
        return f"{', '.join(named)} USD; none for the other stages"
    total = f"{dollars(recipe.budget_usd)} USD"
    if not named:
        return f"{total}, spent by the stages in their order"
    rest_usd = recipe.budget_usd - sum(recipe.budgets.values())
    return f"{total}: {', '.join(named)}, the other stages in their order {dollars(rest_usd)}"


def spent_by(recipe: Recipe, run: RunDir) -> dict[str, float]:
    """What a run has spent by stage, all of it under "", also on what has changed since."""
    names = ("", *recipe.stages)
    if run.journal is None:
        return dict.fromkeys(names, 0.0)
    with Journal(run.journal) as journal:
        return {name: journal.spent_usd(recipe.name, name) for name in names}


def where_it_ends(
    recipe: Recipe, expected_usd: Mapping[str, float], spent_usd: Mapping[str, float]
) -> str:
    """The first stage that is expected to want more than it may spend; "" for none."""
    spent, names = dict(spent_usd), list(expected_usd)
    for index, name in enumerate(names):
        # a scheme that is written wave by wave still waits while a filter behind it is asked
        waiting = names[index + 1 :]
        waiting += [scheme for scheme in names if name in accepting(recipe.stages, scheme)]
        limit = limit_of(recipe, name, waiting, lambda stage: spent.get(stage, 0.0))
        spent[name] = spent.get(name, 0.0) + expected_usd[name]
        spent[""] += expected_usd[name]
        if expected_usd[name] and limit.usd is not None and spent[""] > limit.usd + 1e-9:
            return name
    return ""


@dataclass
class Short:
    """The stages of a run that lacked money, and those that read them."""

    why: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    _raise_keys: dict[str, None] = field(default_factory=dict)

    def leaves_out(self, stage: str, upstream: Iterable[str]) -> bool:
        """Whether a stage reads one that lacked money."""
        lacks = any(name in self.why or name in self.left_out for name in upstream)
        if lacks:
            self.left_out.append(stage)
        return lacks

    @contextmanager
    def notes(self, stage: str, budget: Budget) -> Iterator[None]:
        """Note that the stage lacks money, and go on with those that do not read it."""
        try:
            yield
        except BudgetError as error:
            self.why[stage] = str(error).partition("; ")[0].removeprefix(f"stage {stage}: ")
            self._raise_keys[budget.raise_key] = None

    def check(self) -> None:
        """BudgetError in one sentence, where a stage lacked money."""
        if self.why:
            what = "; ".join(f"stage {name}: {why}" for name, why in self.why.items())
            behind = f"; not run, as they read it: {', '.join(self.left_out)}"
            fix = f"raise {' and '.join(self._raise_keys)} and run the same command to go on"
            raise BudgetError(f"{what}{behind if self.left_out else ''}; {fix}.")
