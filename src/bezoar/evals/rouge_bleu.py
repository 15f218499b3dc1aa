"""Overlap of written answers with references: ROUGE-1, ROUGE-2, ROUGE-L (rouge-score) and BLEU-4
(sacrebleu), with signatures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from bezoar.chat.types import Chat, Comparison, as_chats
from bezoar.errors import DataError
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import NONE, Score, percentiles, resamples, score
from bezoar.io import Row, content_hash
from bezoar.llm.types import Ask, Request
from bezoar.references import RowsRef

ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class RougeBleu:
    """Recipe keys: rows whose answers are the references (chosen ones of comparisons, last ones of
    chats), how many of them (all by default), and the longest answer. The model answers
    greedily."""

    rows: RowsRef
    max_tokens: int = 256
    limit: int | None = None

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named model; answers are kept by the journal."""
        return self.measure(given.rows(self.rows), given.ask_model(model))

    def measure(self, rows: Sequence[Chat] | Sequence[Comparison], ask: Ask) -> Outcome:
        """An answer that failed is in no mean. DataError for a row without an answer."""
        chats = as_chats(rows[: self.limit])
        asked = [Request(chat.prompt, max_tokens=self.max_tokens) for chat in chats]
        answered = [
            (chat, reply)
            for chat, reply in zip(chats, ask(asked), strict=True)
            if reply.finish != "error"
        ]
        failed = [chat.id for chat in chats if chat.id not in {kept.id for kept, _ in answered}]
        found = rouge_bleu(
            [c.id for c, _ in answered],
            [r.text for _, r in answered],
            [[c.answer] if c.answer else [] for c, _ in answered],
        )
        same = {
            "answer tokens": self.max_tokens,
            "rows": content_hash([chat.to_row() for chat in chats]),
        }
        words = [len(reply.text.split()) for _, reply in answered]
        facts = {
            "conditions": {"ROUGE": same, "BLEU": same},
            "num_cut_answers": sum(r.finish == "length" for _, r in answered),
            "words_per_answer": sum(words) / max(1, len(words)),
        }
        items = [
            *found.items,
            *(
                {"benchmark": name, "id": i, "value": None}
                for name in ROUGE.values()
                for i in failed
            ),
        ]
        texts = {"overlap": [(c.id, "\n".join(m.content for m in c.messages)) for c in chats]}
        return Outcome(
            [replace(s, num_failed=len(failed)) for s in found.scores],
            items,
            {"overlap": {**found.info["overlap"], **facts}},
            texts,
        )


def rouge_bleu(
    ids: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Outcome:
    """F-measures of ROUGE, the best over an item's references, and BLEU of the whole set (0 to
    100).

    ROUGE without stemming; BLEU with sacrebleu's default tokens and smoothing. DataError for an
    item without references.
    """
    from rouge_score.rouge_scorer import RougeScorer

    bare = [i for i, refs in zip(ids, references, strict=True) if not refs]
    if bare:
        raise DataError(
            f"item {bare[0]} has no reference to compare with; add one or leave it out."
        )
    rouge = RougeScorer(list(ROUGE), use_stemmer=False)
    found = [
        rouge.score_multi(refs, answer) for answer, refs in zip(answers, references, strict=True)
    ]
    scores, items = [], list[Row]()
    for key, name in ROUGE.items():
        values = [one[key].fmeasure for one in found]
        scores.append(score(name, values))
        items += [
            {"benchmark": name, "id": i, "value": v} for i, v in zip(ids, values, strict=True)
        ]
    bleu, signature = _bleu(answers, references)
    facts = {
        "ROUGE": f"rouge-score {version('rouge-score')}, no stemming, best reference",
        "BLEU-4": signature,
    }
    return Outcome([*scores, bleu], items, {"overlap": facts})


def _bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Score, str]:
    """Corpus BLEU, its interval by resampling items' counts, and sacrebleu's signature."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    each = [
        metric.corpus_score([answer], [[ref] for ref in refs])
        for answer, refs in zip(answers, references, strict=True)
    ]
    table = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each])
    order = metric.max_ngram_order

    def value(sums: Any) -> float:
        whole = [int(x) for x in sums]
        made = BLEU.compute_bleu(
            whole[:order],
            whole[order : 2 * order],
            whole[-2],
            whole[-1],
            smooth_method=metric.smooth_method,
        )
        return float(made.score)

    drawn = (
        [value(table[picks].sum(0)) for picks in resamples(len(each), 1000)]
        if len(each) > 1
        else []
    )
    bounds = percentiles(np.array(drawn)) if drawn else NONE
    return Score("BLEU-4", value(table.sum(0)), bounds[0], bounds[1], len(each)), str(
        metric.get_signature()
    )
