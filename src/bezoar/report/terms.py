"""Words of the report that a newcomer may not know, explained in the section where they stand."""

import html
import re

from bezoar.report.markup import Child, Markup, h, join

TERMS = {
    "interval": (
        r"\bintervals?\b|\[[−\d]",
        "The numbers in square brackets. If the same test were drawn again and again, 95 of 100"
        " such intervals would hold the true value. More items make it narrower.",
    ),
    "n": (r"\bn = \d", "How many items (questions, pairs, rows) a figure is over."),
    "paired test": (
        r"\bpaired\b",
        "Both models answered the same items, so the difference is taken item by item; luck with"
        " the choice of items cancels. Its p says how often a difference as large appears where"
        " there is none (a coin decides the sign of every item's difference).",
    ),
    "Holm": (
        r"\bHolm\b",
        "A correction of p for several comparisons at once: of many, one looks large by chance.",
    ),
    "not distinguishable": (
        r"\bnot distinguishable\b",
        "The test finds no difference at 5 %. That is not proof that there is none: with few items"
        " only large differences can be found.",
    ),
    "log-probability": (
        r"\blog-prob",
        "How likely a model finds a text: the logarithms of its tokens' probabilities, added up."
        " The longer the text, the lower the sum, so length decides much of it.",
    ),
    "implicit reward": (
        r"\bimplicit reward\b",
        "How much more likely an answer became than it was under an earlier model, times beta"
        " (DPO's own measure). It shows what was learnt; an answer's length and plainness cancel.",
    ),
    "margin": (
        r"\bmargins?\b",
        "The figure of the better answer less that of the worse one. Above 0 the model agrees with"
        " the people or the rules that labelled the pair.",
    ),
    "accuracy": (
        r"\baccuracy\b|/acc\b|/acc_norm\b",
        "The share of items that came out right; of pairs, those where the better answer got the"
        " higher figure. In training a tie counts as wrong, so the curve of DPO begins at 0.",
    ),
    "win rate": (
        r"\bwin rates?\b",
        "The share of questions where a judge prefers the model's answer to the other model's,"
        " shown in both orders; ties count half. One half is even.",
    ),
    "free of position": (
        r"\bfree of position\b|\bno position\b",
        "What the judge adds to the answer it reads first is measured and taken out.",
    ),
    "kappa": (
        r"\bkappa\b",
        "Agreement beyond what chance would give: 0 is chance, 1 is full agreement.",
    ),
    "BFCL": (
        r"\bBFCL\b",
        "The Berkeley Function-Calling Leaderboard: items with declared functions. An answer is"
        " right if its calls have the right names, types and values. A model that never calls is"
        " right wherever no function fits, so read each class beside how often it calls.",
    ),
    "MT-Bench": (
        r"\bmt_bench\b|\bMT-Bench\b",
        "Questions of two turns, each answer rated from 1 to 10 by a judge model: one judge's"
        " opinion.",
    ),
    "perplexity": (r"\bperplexity\b", "How surprised a model is by a text; lower is better."),
    "loss": (
        r"\bloss\b",
        "What training minimises. Validation loss is over rows that are not trained on: where it"
        " rises while the training loss falls, the model learns its rows by heart.",
    ),
    "KL": (r"\bKL\b", "How far the model has moved from the one it started from, in nats."),
    "gradient norm": (r"\bgradient norm\b", "The length of a step's gradient, before clipping."),
    "near duplicate": (
        r"\bnear.duplicates?\b",
        "A row that repeats an earlier one nearly word for word; the first one is kept.",
    ),
    "surplus": (r"\bsurplus\b", "Made, but more than the recipe asked for."),
    "truncated": (
        r"\d truncated\b|>truncated<",
        "The reply had no end within the tokens that it was allowed.",
    ),
    "filtered": (
        r"\d filtered\b|>filtered<",
        "The provider's content filter gave no answer; the same question is not asked again.",
    ),
    "unparsed": (
        r"\bunparsed\b",
        "A reply that cannot be read as what was asked for. It is counted, never guessed.",
    ),
    "reject": (r"\breject\b", "The judge turned the row down; its reason is kept."),
    "journal": (
        r"\bjournal\b",
        "Every reply is stored when it arrives, so none is paid for twice.",
    ),
    "trained tokens": (
        r"\btrained tokens\b",
        "Tokens that carry the loss: those of answers, not those of prompts.",
    ),
}
"""Term -> the pattern that finds it, in any case, and what it means."""
_TAG = re.compile(r"<[^>]*>")


def terms_in(markup: str) -> list[str]:
    """The terms that a reader of this markup meets, in the order of `TERMS`."""
    text = html.unescape(_TAG.sub(" ", markup))
    return [name for name, (pattern, _) in TERMS.items() if re.search(pattern, text, re.IGNORECASE)]


def explained(*children: Child) -> Markup | None:
    """A line of the terms that occur in these parts; each opens. None if there are none."""
    names = terms_in(_spaced(children))
    if not names:
        return None
    entries = [
        h("details", h("summary", name), h("p", TERMS[name][1]), cls="term") for name in names
    ]
    return h("div", h("span", "What is …"), entries, cls="terms")


def _spaced(children: Child) -> str:
    """Parts with room between them, as they have on the page."""
    if children is None or isinstance(children, (str, int, float)):
        return join(children)
    return " ".join(map(_spaced, children))
