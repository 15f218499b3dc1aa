"""How often a model prefers the chosen answer of held-out pairs, and by how much.

With a reference r the model p is judged by its implicit reward, beta * (log p(y|x) - log r(y|x))
(DPO, arXiv 2305.18290, section 5.1); log-probabilities are sums over the answer's tokens with its
end token. Every model is also judged by its plain log-probability, as a sum and per token. A tie is
wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.types import AnyRow, Comparison
from bezoar.cost import Estimate
from bezoar.errors import DataError
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.section import Section, expected_rows, item_rows
from bezoar.evals.stats import detectable, score
from bezoar.io import Row, content_hash
from bezoar.model.completions import rendered_logprobs
from bezoar.references import ModelRef, RowsRef

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

NAMES = {
    "reward": "preferences/implicit reward",
    "logprob": "preferences/log-prob",
    "per_token": "preferences/log-prob per token",
}


@dataclass(frozen=True)
class Preferences(Section):
    """How often the model prefers the chosen answer of held-out pairs, and by what margin.

    Source: arXiv 2305.18290, section 5.1
    Example: {rows: held-out, reference: sft, beta: 0.1}
    """

    rows: RowsRef
    """Stage that gives pairs."""
    reference: ModelRef | None = None
    """Reference of the implicit reward; without it only log-probabilities are compared."""
    beta: float = 0.1
    """Factor of the implicit reward, that of the training."""
    limit: int | None = None
    """Number of pairs, the first ones; null for all."""

    def check(self, model: str) -> None:
        """Refuse a model as its own reference."""
        if self.reference == model:
            raise ValueError(
                "preferences.reference is the evaluated model: every margin is 0; name another"
            )

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named model on the named rows."""

        def measure() -> Outcome:
            reference = context.open_model(self.reference) if self.reference else None
            rows = context.rows(self.rows)
            return self.measure(rows, context.open_model(model), reference, context.template)

        return cache_part("preferences", measure)

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the accuracies."""
        num = expected_rows(rows, self.rows, self.limit)
        return {"preferences": detectable(num)} if num else {}

    def measure(
        self, rows: Sequence[AnyRow], stack: "Stack", reference: "Stack | None", template: Template
    ) -> Outcome:
        """Score both answers of every pair. A pair that exceeds the model's context has failed."""
        pairs = [row for row in rows if isinstance(row, Comparison)][: self.limit]
        if not pairs:
            raise DataError(f"{self.rows}: the rows are not comparisons; name a stage with pairs.")
        # 1) only pairs that fit both models are scored, none is cut
        longest = min(s.context_length for s in (stack, reference) if s is not None)
        texts = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
        groups = [render_completions(*both, template, stack.tokenizer) for both in texts]
        lengths = [len(prompt) + max(map(len, answers)) for prompt, answers in groups]
        fitting = [i for i, length in enumerate(lengths) if length <= longest]
        kept = [groups[i] for i in fitting]
        policy = rendered_logprobs(stack, kept)
        base = rendered_logprobs(reference, kept) if reference else [None] * len(kept)
        # 2) margins by pair; a pair without them counts as failed
        margins = {
            i: _margins(group, ours, theirs, self.beta)
            for i, group, ours, theirs in zip(fitting, kept, policy, base, strict=True)
        }
        outcome = self._outcome(pairs, margins, reference is not None)
        same = {
            "template": template.kind,
            "template's settings": content_hash(asdict(template)),
            "pairs": content_hash([pair.to_row() for pair in pairs]),
        }
        # against another reference the implicit reward is another figure
        identity = getattr(reference, "identity", "")
        outcome.info["preferences"]["conditions"] = {
            "preferences/log-prob": same,
            "preferences/implicit reward": {**same, "beta": self.beta, "reference": identity},
        }
        outcome.texts["preferences"] = pair_texts(pairs)
        return outcome

    def _outcome(
        self,
        pairs: Sequence[Comparison],
        margins_of: dict[int, dict[str, float]],
        with_reference: bool,
    ) -> Outcome:
        ids = [pair.id for pair in pairs]
        scores, items = [], list[Row]()
        # accuracies and margins of all pairs, so that two models are paired pair by pair
        for key, name in NAMES.items():
            if key == "reward" and not with_reference:
                continue
            margins = [margins_of[i][key] if i in margins_of else None for i in range(len(pairs))]
            right = [None if margin is None else float(margin > 0) for margin in margins]
            for kind, values in (("accuracy", right), ("margin", margins)):
                scores.append(score(f"{name} {kind}", values))
                items += item_rows(f"{name} {kind}", ids, values)
        too_long = len(pairs) - len(margins_of)
        facts = {"beta": self.beta, "reference": self.reference, "num_too_long": too_long}
        return Outcome(scores, items, {"preferences": facts})


def pair_texts(pairs: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(id, prompt and chosen answer) of pairs, in which training rows are searched."""
    return [(p.id, "\n".join([*(m.content for m in p.prompt), p.chosen])) for p in pairs]


def _margins(
    group: RenderedCompletions, policy: Sequence[float], base: Sequence[float] | None, beta: float
) -> dict[str, float]:
    """Chosen minus rejected; exactly 0 for two equal answers, whatever the rounding."""
    # one batch may round two equal answers differently: that is no preference
    chosen, rejected = group[1]
    margins = {
        "logprob": policy[0] - policy[1],
        "per_token": policy[0] / len(chosen) - policy[1] / len(rejected),
    }
    if base is not None:
        margins["reward"] = beta * ((policy[0] - base[0]) - (policy[1] - base[1]))
    return {name: 0.0 if chosen == rejected else margin for name, margin in margins.items()}
