"""ROUGE and BLEU against their libraries and by hand."""

from collections.abc import Sequence

import pytest

from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError
from bezoar.llm.types import Reply, Request


def test_overlap_by_hand_and_by_the_library() -> None:
    pytest.importorskip("rouge_score")
    from sacrebleu.metrics.bleu import BLEU

    from bezoar.evals.rouge_bleu import rouge_bleu

    answers = ["the cat sat on the mat", "nothing in common"]
    references = [["the cat lay on the mat", "a dog"], ["words of another kind"]]
    outcome = rouge_bleu(["a", "b"], answers, references)
    scores = {s.name: s for s in outcome.scores}
    # five of six words are shared in order; the second item shares none
    assert scores["ROUGE-1"].value == pytest.approx((5 / 6 + 0) / 2)
    assert scores["ROUGE-L"].value == pytest.approx((5 / 6 + 0) / 2)
    assert scores["ROUGE-2"].value == pytest.approx((3 / 5 + 0) / 2)
    whole = BLEU().corpus_score(
        answers, [["the cat lay on the mat", "words of another kind"], ["a dog", None]]
    )
    assert scores["BLEU-4"].value == pytest.approx(whole.score)
    assert scores["BLEU-4"].low is not None
    assert outcome.info["overlap"]["BLEU-4"].startswith("nrefs:")
    with pytest.raises(DataError, match="item b has no reference"):
        rouge_bleu(["a", "b"], answers, [["x"], []])


def test_the_section_asks_for_answers_and_counts_failures() -> None:
    pytest.importorskip("rouge_score")
    from bezoar.evals.rouge_bleu import RougeBleu

    rows = [
        Comparison(name, (Message("user", f"Question {name}"),), chosen, "bad")
        for name, chosen in (("a", "one two"), ("b", "three four"), ("c", "five"))
    ]
    asked = []

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        return [Reply("one two"), Reply(finish="error", error="down")]

    outcome = RougeBleu("held-out", max_tokens=7, limit=2).measure(rows, ask)
    assert [(r.messages[-1].content, r.max_tokens, r.temperature) for r in asked] == [
        ("Question a", 7, 0.0),
        ("Question b", 7, 0.0),
    ]
    assert {(s.name, s.n, s.num_failed) for s in outcome.scores} == {
        (n, 1, 1) for n in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU-4")
    }
    assert next(s.value for s in outcome.scores if s.name == "ROUGE-L") == 1.0
    assert [i["value"] for i in outcome.items if i["benchmark"] == "ROUGE-L"] == [1.0, None]
    assert outcome.info["overlap"]["words_per_answer"] == 2
