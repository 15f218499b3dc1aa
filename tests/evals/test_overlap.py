"""ROUGE and BLEU against their libraries and by hand; contamination."""

from collections.abc import Sequence

import pytest

from bezoar.chat.types import Chat, Comparison, Message
from bezoar.errors import DataError
from bezoar.evals.contamination import contamination, row_text
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


def test_shared_runs_of_words_are_found_with_their_row() -> None:
    item = "What is the name of the long river that flows through the old town of Aarau in summer"
    rows = [
        ("r1", "Tell me about rivers."),
        ("r2", "Q: the NAME of the long river that flows, through the old town of Aarau?"),
    ]
    found = contamination(
        rows,
        {
            "quiz": [
                ("1", item),
                ("2", "A wholly different question about the price of bread and milk"),
            ]
        },
    )
    (touch,) = found.touched
    assert (touch.benchmark, touch.item, touch.row) == ("quiz", "1", "r2")
    # 18 words give 11 runs of 8; 14 shared words give 7
    assert touch.share == pytest.approx(7 / 11)
    table = found.to_dict()
    assert table["benchmarks"]["quiz"] == {"items": 2, "touched": 1, "contaminated": 1}
    assert table["rows"] == 2


def test_short_items_count_whole_and_very_short_ones_not_at_all() -> None:
    rows = [("r", "well, the sun rises in the east, always")]
    found = contamination(
        rows,
        {
            "b": [
                ("short", "The sun rises in the east"),
                ("tiny", "the sun"),
                ("other", "the moon rises in the east"),
            ]
        },
    )
    assert [t.item for t in found.touched] == ["short"]


def test_a_row_is_read_whole() -> None:
    chat = Chat("c", (Message("user", "one"), Message("assistant", "two")))
    assert row_text(chat) == ("c", "one\ntwo")
    assert row_text(Comparison("p", (Message("user", "q"),), "yes", "no")) == ("p", "q\nyes\nno")
