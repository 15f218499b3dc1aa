"""How often a model prefers the chosen answer of held-out pairs, and by how much.

With a reference r the model p is judged by its implicit reward, beta * (log p(y|x) - log r(y|x))
(DPO, arXiv 2305.18290, section 5.1); log-probabilities are sums over the answer's tokens with its
end token. Every model is also judged by its plain log-probability, as a sum and per token. A tie is
wrong.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.types import Chat, Comparison
from bezoar.cost import Estimate
from bezoar.errors import DataError
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import detectable, score
from bezoar.io import Row, content_hash
from bezoar.references import ModelRef, RowsRef


@dataclass(frozen=True)
class Preferences:
    """Recipe keys: the pairs, the reference of the implicit reward with its `beta`, and how many
    pairs (all by default)."""

    rows: RowsRef
    reference: ModelRef | None = None
    beta: float = 0.1
    limit: int | None = None

    def check(self, model: str) -> None:
        """A model has no reward over itself."""
        if self.reference == model:
            raise ValueError(
                "preferences.reference is the evaluated model itself, so every margin is 0; name"
                " the model below it"
            )

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named model on the named rows."""

        def make() -> Outcome:
            reference = given.open_model(self.reference) if self.reference else None
            return self.measure(
                given.rows(self.rows), given.open_model(model), reference, given.template
            )

        return keep("preferences", make)

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """Of the accuracies."""
        num = min(self.limit or 1 << 30, int(rows[self.rows].expected) if self.rows in rows else 0)
        return {"preferences": detectable(num)} if num else {}

    def measure(
        self,
        rows: Sequence[Chat] | Sequence[Comparison],
        stack: Any,
        reference: Any,
        template: Template,
    ) -> Outcome:
        """Score both answers of every pair with `stack` and, unless it is None, with `reference`
        (both `model.stack.Stack`).

        A pair that is longer than the model's context is a failure, not cut.
        """
        pairs = [row for row in rows if isinstance(row, Comparison)][: self.limit]
        if not pairs:
            raise DataError(
                f"{self.rows}: these rows are not comparisons; name a stage that gives pairs."
            )
        longest = min(context_length(s) for s in (stack, reference) if s is not None)
        groups = [
            render_completions(pair.prompt, (pair.chosen, pair.rejected), template, stack.tokenizer)
            for pair in pairs
        ]
        fits = [len(prompt) + max(map(len, answers)) <= longest for prompt, answers in groups]
        kept = [group for group, fit in zip(groups, fits, strict=True) if fit]
        policy = answer_logprobs(stack, kept)
        base = answer_logprobs(reference, kept) if reference is not None else [None] * len(kept)
        margins = iter(
            [_margins(*three, self.beta) for three in zip(kept, policy, base, strict=True)]
        )
        records = [next(margins) if fit else None for fit in fits]
        outcome = self._outcome([pair.id for pair in pairs], records, reference is not None)
        same = {
            "template": template.kind,
            "template's settings": content_hash(asdict(template)),
            "pairs": content_hash([p.to_row() for p in pairs]),
        }
        outcome.info["preferences"]["conditions"] = {
            "preferences/log-prob": same,
            "preferences/implicit reward": {
                **same,
                "beta": self.beta,
                "reference": getattr(reference, "identity", ""),
            },
        }
        outcome.texts["preferences"] = [
            (p.id, "\n".join([*(m.content for m in p.prompt), p.chosen])) for p in pairs
        ]
        return outcome

    def _outcome(
        self, ids: Sequence[str], records: Sequence[dict[str, float] | None], with_reference: bool
    ) -> Outcome:
        names = {"logprob": "preferences/log-prob", "per_token": "preferences/log-prob per token"}
        if with_reference:
            names = {"reward": "preferences/implicit reward", **names}
        scores, items = [], list[Row]()
        for key, name in names.items():
            margins = [None if r is None else r[key] for r in records]
            right = [None if m is None else float(m > 0) for m in margins]
            scores += [score(f"{name} accuracy", right), score(f"{name} margin", margins)]
            for kind, values in (("accuracy", right), ("margin", margins)):
                items += [
                    {"benchmark": f"{name} {kind}", "id": i, "value": v}
                    for i, v in zip(ids, values, strict=True)
                ]
        labels = {
            "beta": self.beta,
            "reference": self.reference,
            "num_too_long": sum(r is None for r in records),
        }
        return Outcome(scores, items, {"preferences": labels})


def answer_logprobs(stack: Any, groups: Sequence[RenderedCompletions]) -> list[list[float]]:
    """Sums (nats) of the log-probabilities of every branch of every tree."""
    from bezoar.model.prompt_group import prompt_group
    from bezoar.model.score import score as score_trees

    return [
        [completion.total for completion in group]
        for group in score_trees(stack, [prompt_group(*group) for group in groups])
    ]


def context_length(stack: Any) -> int:
    """The most tokens a model can see; DataError where its config does not say."""
    length = getattr(stack.net.config, "max_position_embeddings", None)
    if not length:
        raise DataError(
            "the model's config.json has no max_position_embeddings; add the length of its context"
            " there."
        )
    return int(length)


def _margins(
    group: RenderedCompletions, policy: Sequence[float], base: Sequence[float] | None, beta: float
) -> dict[str, float]:
    """Chosen minus rejected; exactly 0 for two equal answers, whatever the rounding."""
    chosen, rejected = group[1]
    found = {
        "logprob": policy[0] - policy[1],
        "per_token": policy[0] / len(chosen) - policy[1] / len(rejected),
    }
    if base is not None:
        found["reward"] = beta * ((policy[0] - base[0]) - (policy[1] - base[1]))
    return {name: 0.0 if chosen == rejected else margin for name, margin in found.items()}
