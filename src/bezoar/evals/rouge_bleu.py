"""ROUGE-1, ROUGE-2, ROUGE-L (rouge-score) and BLEU-4 (sacrebleu) of written answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from bezoar.bounds import Count
from bezoar.chat.row_types import TEXTS, RowNeed
from bezoar.chat.types import AnyRow, as_chats
from bezoar.errors import DataError
from bezoar.evals.contamination import spoken
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.section import Section, item_rows
from bezoar.evals.stats import NONE, Floats, Score, percentiles, resamples, score
from bezoar.io import Row, content_hash
from bezoar.llm.types import Ask, Request
from bezoar.references import RowsRef

ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class RougeBleu(Section):
    """ROUGE and BLEU of greedy answers against the rows' own: chosen ones of pairs, last of chats.

    Example: {rows: held-out, max_tokens: 128}
    """

    rows: RowsRef
    """Stage whose answers are the references."""
    max_tokens: Count = 256
    """Most tokens of an answer."""
    limit: Count | None = None
    """Number of rows, the first ones; null for all."""

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with an answer that counts."""
        return {"rows": TEXTS}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named model; the journal keeps the answers."""
        return self.measure(context.rows(self.rows), context.ask_model(model))

    def measure(self, rows: Sequence[AnyRow], ask: Ask) -> Outcome:
        """An answer that failed is in no mean. DataError for a row without an answer."""
        chats = as_chats(rows[: self.limit])
        replies = ask([Request(chat.prompt, max_tokens=self.max_tokens) for chat in chats])
        both = list(zip(chats, replies, strict=True))
        answered = [(chat, reply) for chat, reply in both if reply.finish != "error"]
        failed = [chat.id for chat, reply in both if reply.finish == "error"]
        figures = rouge_bleu(
            [chat.id for chat, _ in answered],
            [reply.text for _, reply in answered],
            [[chat.answer] if chat.answer else [] for chat, _ in answered],
        )
        rows_hash = content_hash([chat.to_row() for chat in chats])
        same = {"answer tokens": self.max_tokens, "rows": rows_hash}
        num_words = [len(reply.text.split()) for _, reply in answered]
        # long answers raise recall: their length stands beside the figures
        facts = {
            **figures.info["overlap"],
            "conditions": {"ROUGE": same, "BLEU": same},
            "num_cut_answers": sum(reply.finish == "length" for _, reply in answered),
            "words_per_answer": sum(num_words) / max(1, len(num_words)),
        }
        # a failed answer is an item too, without a value: two models are paired item by item
        items = [*figures.items]
        for name in ROUGE.values():
            items += item_rows(name, failed, [None] * len(failed))
        scores = [replace(s, num_failed=len(failed)) for s in figures.scores]
        texts = {"overlap": [(chat.id, spoken(chat.prompt), chat.answer) for chat in chats]}
        return Outcome(scores, items, {"overlap": facts}, texts)


def rouge_bleu(
    ids: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Outcome:
    """F-measures of ROUGE, the best over an item's references, and BLEU of the set (0 to 100).

    ROUGE without stemming; BLEU with sacrebleu's default tokens and smoothing. DataError for an
    item without references.
    """
    from rouge_score.rouge_scorer import RougeScorer

    for item, texts in zip(ids, references, strict=True):
        if not texts:
            raise DataError(f"item {item} has no reference answer; add one or leave it out.")
    # stemming is for English only, and hides differences of form
    scorer = RougeScorer(list(ROUGE), use_stemmer=False)
    pairs = zip(references, answers, strict=True)
    rouge = [scorer.score_multi(texts, answer) for texts, answer in pairs]
    scores, items = [], list[Row]()
    for key, name in ROUGE.items():
        values = [of_item[key].fmeasure for of_item in rouge]
        scores.append(score(name, values))
        items += item_rows(name, ids, values)
    # BLEU has no value an item: its interval comes from resampling, and no paired test reads it
    bleu, signature = _bleu(answers, references)
    rouge_signature = f"rouge-score {version('rouge-score')}, no stemming, best reference"
    facts = {"ROUGE": rouge_signature, "BLEU-4": signature}
    return Outcome([*scores, bleu], items, {"overlap": facts})


def _bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Score, str]:
    """Corpus BLEU, its interval by resampling items' counts, and sacrebleu's signature."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    order = metric.max_ngram_order
    both = zip(answers, references, strict=True)
    by_item = [metric.corpus_score([answer], [[text] for text in texts]) for answer, texts in both]
    # [items, counts by n | totals by n | length of the answer | length of the reference]
    counts = np.array([[*b.counts, *b.totals, b.sys_len, b.ref_len] for b in by_item])

    def bleu(sums: Floats) -> float:
        *ngrams, sys_len, ref_len = map(int, sums)
        sizes = (ngrams[:order], ngrams[order:], sys_len, ref_len)
        return float(BLEU.compute_bleu(*sizes, smooth_method=metric.smooth_method).score)

    # BLEU of a set is no mean over items: the counts are resampled, then summed
    interval = NONE
    if len(by_item) > 1:
        samples = [bleu(counts[picks].sum(0)) for picks in resamples(len(by_item), 1000)]
        interval = percentiles(np.array(samples))
    value = bleu(counts.sum(0))
    return Score("BLEU-4", value, *interval, len(by_item)), str(metric.get_signature())
