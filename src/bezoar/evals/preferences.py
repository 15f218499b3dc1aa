"""How often a model prefers the chosen answer of held-out pairs, and by how much.

Over a reference r the model p is judged by its implicit reward, beta * (log p(y|x) - log r(y|x))
(DPO, arXiv 2305.18290, section 5.1); log-probabilities are sums over the answer's tokens with its
end token, unless it was cut off. It shows what was learnt, where a plain log-probability, which
follows length, hardly moves. A tie of implicit rewards counts one half, a tie of log-probabilities
is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from bezoar.bounds import Count, Positive
from bezoar.chat.row_types import COMPARISONS, RowNeed
from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.types import AnyRow, Comparison, ended
from bezoar.cost import Estimate
from bezoar.errors import DataError
from bezoar.evals.contamination import spoken
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.section import Section, expected_rows, item_rows
from bezoar.evals.stats import score
from bezoar.io import Row, content_hash, read_intact, write_checked
from bezoar.model.completions import rendered_logprobs
from bezoar.references import ModelRef, RowsRef

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

FAMILY = "preferences"
REWARD = f"{FAMILY}/implicit reward"
OVER_START = f"{REWARD} over start"
OVER_BELOW = f"{REWARD} over the stack below"
LOGPROB = f"{FAMILY}/log-prob"
PER_TOKEN = f"{LOGPROB} per token"
BY_DEFINITION = "by definition: over itself a model has no reward, so each pair is a tie"
TIED = "each pair is a tie: the model gives the answers its reference's likelihoods"
Groups = Sequence[RenderedCompletions]


class Likelihood(NamedTuple):
    """A model as what gives answers their log-probabilities."""

    identity: str
    of: Callable[[Groups], list[list[float]]]
    """Prompts with two answers each -> the sums of log-probabilities of the two."""

    @classmethod
    def of_stack(cls, stack: "Stack") -> "Likelihood":
        """That of an opened model."""
        return cls(getattr(stack, "identity", ""), lambda groups: rendered_logprobs(stack, groups))

    @classmethod
    def of_model(cls, name: str, context: EvalContext) -> "Likelihood":
        """That of a model by name, which is opened only if no evaluation has scored the answers."""
        folder, identify = context.shared_dir, context.model_identity
        if folder is None or identify is None:
            return cls.of_stack(context.open_model(name))
        identity = identify(name)

        def of(groups: Groups) -> list[list[float]]:
            # the whole list is one entry: another batch may round otherwise
            path = folder / f"logprobs-{content_hash(identity, groups)}.json"
            stored = read_intact(path)
            if stored is None:
                stored = {"sums": rendered_logprobs(context.open_model(name), groups)}
                write_checked(path, stored)
            return list(stored["sums"])

        return cls(identity, of)


@dataclass(frozen=True)
class Preferences(Section):
    """How often the model prefers the chosen answer of held-out pairs, and by what margin.

    Its implicit reward is taken over the start model (the base below all training stages, one
    reference for all, so that stages compare) and over the stack below (the model that its own
    training started from). The start model's own is 0: each pair is a tie and counts one half.

    Source: arXiv 2305.18290, section 5.1
    Example: {rows: held-out, beta: 0.1}
    """

    rows: RowsRef
    """Stage that gives pairs."""
    reference: ModelRef | None = None
    """Another reference of the implicit reward, in place of the stack below."""
    beta: Positive = 0.1
    """Factor of the implicit reward, that of the training."""
    limit: Count | None = None
    """Number of pairs, the first ones; null for all."""

    def check(self, model: str) -> None:
        """Refuse a model as its own reference."""
        if self.reference == model:
            raise ValueError(
                "preferences.reference is the evaluated model: every margin is 0; name another"
            )

    def references(self, model: str, context: EvalContext) -> dict[str, str]:
        """What the implicit reward is called -> the model that it is over."""
        lineage = context.lineage(model)
        start = lineage[0].model if lineage else model
        if self.reference:
            return {OVER_START: start, REWARD: self.reference}
        if not lineage or lineage[-1].model == start:
            return {OVER_START: start}
        return {OVER_START: start, OVER_BELOW: lineage[-1].model}

    def takes(self) -> Mapping[str, RowNeed]:
        """Pairs."""
        return {"rows": (COMPARISONS,)}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named model on the named rows."""

        def measure() -> Outcome:
            stack, named = context.open_model(model), self.references(model, context)
            over = {what: Likelihood.of_model(name, context) for what, name in named.items()}
            own = Likelihood.of_model(model, context)
            # the models of one lineage have one base; any other may have a shorter context
            others = [context.open_model(self.reference)] if self.reference else []
            longest = min(other.context_length for other in (stack, *others))
            rows, template = context.rows(self.rows), context.template
            outcome = self._measure(rows, stack, own, over, template, longest)
            outcome.info[FAMILY]["references"] = named
            return outcome

        return cache_part(FAMILY, measure)

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the accuracies."""
        num = expected_rows(rows, self.rows, self.limit)
        return {FAMILY: detectable(num)} if num else {}

    def measure(
        self, rows: Sequence[AnyRow], stack: "Stack", reference: "Stack | None", template: Template
    ) -> Outcome:
        """Score both answers of every pair. A pair that exceeds the model's context has failed."""
        over = {REWARD: Likelihood.of_stack(reference)} if reference else {}
        longest = min(s.context_length for s in (stack, reference) if s is not None)
        own = Likelihood.of_stack(stack)
        return self._measure(rows, stack, own, over, template, longest)

    def _measure(
        self,
        rows: Sequence[AnyRow],
        stack: "Stack",
        own: Likelihood,
        over: Mapping[str, Likelihood],
        template: Template,
        longest: int,
    ) -> Outcome:
        pairs = [row for row in rows if isinstance(row, Comparison)][: self.limit]
        if not pairs:
            raise DataError(f"{self.rows}: the rows are not comparisons; name a stage with pairs.")
        # 1) only pairs that fit all models are scored, none is cut
        texts = [(pair.prompt, (pair.chosen, pair.rejected), ended(pair)) for pair in pairs]
        groups = [
            render_completions(prompt, both, template, stack.tokenizer, ended=ends)
            for prompt, both, ends in texts
        ]
        lengths = [len(prompt) + max(map(len, answers)) for prompt, answers in groups]
        fitting = [i for i, length in enumerate(lengths) if length <= longest]
        kept = [groups[i] for i in fitting]
        # 2) margins by pair, of equal answers exactly 0: one batch may round the two differently
        margins: dict[str, dict[int, float]] = {}
        sums = own.of(kept)
        for what, reference in over.items():
            theirs = sums if reference.identity == own.identity else reference.of(kept)
            both = zip(fitting, sums, theirs, strict=True)
            margins[what] = {i: self.beta * _margin(p, r) for i, p, r in both}
        counted = list(zip(fitting, sums, kept, strict=True))
        margins[LOGPROB] = {i: own_sums[0] - own_sums[1] for i, own_sums, _ in counted}
        margins[PER_TOKEN] = {i: _per_token(own_sums, group) for i, own_sums, group in counted}
        equal = [i for i, _, (_, answers) in counted if answers[0] == answers[1]]
        for of_pair in margins.values():
            of_pair.update(dict.fromkeys(equal, 0.0))
        # 3) what two scores must share: against another reference it is another figure
        itself = [what for what, reference in over.items() if reference.identity == own.identity]
        outcome = self._outcome(pairs, margins, itself, longest)
        same = {
            "template": template.kind,
            "template's settings": content_hash(asdict(template)),
            "pairs": content_hash([pair.to_row() for pair in pairs]),
        }
        conditions: dict[str, Row] = {LOGPROB: same}
        for what, reference in over.items():
            conditions[what] = {**same, "reference": reference.identity}
            # a margin is in units of beta, an accuracy is the same under any
            conditions[f"{what} margin"] = {**conditions[what], "beta": self.beta}
        outcome.info[FAMILY]["conditions"] = conditions
        outcome.texts[FAMILY] = pair_texts(pairs)
        return outcome

    def _outcome(
        self,
        pairs: Sequence[Comparison],
        margins_of: Mapping[str, Mapping[int, float]],
        itself: Sequence[str],
        longest: int,
    ) -> Outcome:
        ids, too_long = [pair.id for pair in pairs], f"longer than the model's {longest} tokens"
        scores, items = [], list[Row]()
        # accuracies and margins of all pairs, so that two models are paired pair by pair
        for name, of_pair in margins_of.items():
            margins = [of_pair.get(i) for i in range(len(pairs))]
            tie = 0.5 if name.startswith(REWARD) else 0.0
            right = [None if m is None else float(m > 0) if m else tie for m in margins]
            # without a single difference there is nothing to draw an interval from
            tied = tie and not any(margins) and any(m is not None for m in margins)
            for kind, values in (("accuracy", right), ("margin", margins)):
                figure = score(f"{name} {kind}", values)
                if tied:
                    reason = BY_DEFINITION if name in itself else TIED
                    figure = replace(figure, low=None, high=None, reason=reason)
                scores.append(figure)
                items += item_rows(f"{name} {kind}", ids, values, too_long)
        num = len(pairs) - len(margins_of[LOGPROB])
        facts: Row = {"beta": self.beta, "reference": self.reference, "num_too_long": num}
        if num:
            facts |= {"num_items": len(pairs), "failures": {too_long: num}}
        return Outcome(scores, items, {FAMILY: facts})


def pair_texts(pairs: Sequence[Comparison]) -> list[ItemText]:
    """Prompts with the chosen answers, which are searched for in training rows."""
    return [(pair.id, spoken(pair.prompt), pair.chosen) for pair in pairs]


def _margin(policy: Sequence[float], reference: Sequence[float]) -> float:
    """Chosen minus rejected, each less the reference's."""
    return (policy[0] - reference[0]) - (policy[1] - reference[1])


def _per_token(sums: Sequence[float], group: RenderedCompletions) -> float:
    chosen, rejected = group[1]
    return sums[0] / len(chosen) - sums[1] / len(rejected)
