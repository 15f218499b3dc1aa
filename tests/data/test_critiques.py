"""The text of critiques and revisions both ways, and rows of people."""

import json
import random
from pathlib import Path

import pytest

from bezoar.chat.types import Chat, Dropped, Message
from bezoar.data.critiques import (
    Critiques,
    Revised,
    UnreadRevision,
    format_revision,
    parse_critique,
    parse_revision,
    revision_chat,
    revision_request,
)
from bezoar.errors import DataError

CHAT = Chat(
    "a", (Message("user", "Why {response}?"), Message("assistant", "Because {conversation}."))
)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Critique: too short.\nRevision: Longer.", Revised("too short.", "Longer.")),
        (
            "\n**Critique:** too\nshort.\n\n**Revision:**\n**Bold** text",
            Revised("too\nshort.", "**Bold** text"),
        ),
        (
            "## Critique\nshort\n## Revision\nRevision: two\nCritique: three",
            Revised("short", "Revision: two\nCritique: three"),
        ),
        ("CRITIQUE: *good*.\n__Revision__ : Same.", Revised("*good*.", "Same.")),
        (
            "Critique: the word Revision: stands here\nRevision: x",
            Revised("the word Revision: stands here", "x"),
        ),
        ("The answer is fine.\nRevision: x", UnreadRevision("no critique")),
        ("Criticism: bad\nRevision: x", UnreadRevision("no critique")),
        ("Critique: bad. Revision: x", UnreadRevision("no revision")),
        ("Critique: bad\nRevisions: x", UnreadRevision("no revision")),
        ("Critique:\nRevision: x", UnreadRevision("empty critique")),
        ("Critique: bad\nRevision:  \n", UnreadRevision("empty revision")),
        ("", UnreadRevision("no critique")),
    ],
)
def test_what_is_read(reply: str, found: Revised | UnreadRevision) -> None:
    assert parse_revision(reply) == found


def test_what_is_trained_reads_back() -> None:
    draw = random.Random(0)
    pieces = ["Critique", "Revision", ":", "\n", " ", "**", "# ", "_", "good", "\r"]
    kept = 0
    for _ in range(20_000):
        given = Revised(
            *("".join(draw.choices(pieces, k=draw.randint(1, 8))).strip() for _ in range(2))
        )
        row = revision_chat("r", CHAT, given, {})
        if isinstance(row, Dropped):
            assert not all(given) or "revision" in given.critique.lower(), given
        else:
            assert parse_revision(row.answer) == given
            kept += 1
    assert 15_000 < kept < 20_000


def test_a_plain_row_is_never_dropped_and_braces_stay() -> None:
    row = revision_chat(
        "r", CHAT, Revised("Fine: as it is.", "Because {conversation}."), {"seed": "a"}
    )
    assert isinstance(row, Chat)
    assert [m.role for m in row.messages] == ["user", "assistant"]
    assert row.answer == format_revision("Fine: as it is.", "Because {conversation}.")
    text = row.prompt[0].content
    assert "[Conversation]\nWhy {response}?\n\n[Answer]\nBecause {conversation}.\n\n[End]" in text


def test_turns_are_told_apart() -> None:
    turns = (
        Message("system", "Be kind."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "Name?"),
    )
    text = revision_request(turns, "Bez")[0].content
    assert (
        "[Conversation]\nSystem: Be kind.\n\nUser: Hello\n\nAssistant: Hi\n\nUser:"
        " Name?\n\n[Answer]\nBez" in text
    )


def test_a_critique_alone() -> None:
    assert parse_critique("Too short.") == "Too short."
    assert parse_critique("**Critique:** Too short.\n**Revision:** x") == "Too short."


def test_rows_of_people(tmp_path: Path) -> None:
    def row(**changes: object) -> str:
        return json.dumps(
            {
                "prompt": "Why?",
                "response": "No.",
                "critique": "Rude.",
                "revision": "Because.",
                **changes,
            }
        )

    path = tmp_path / "people.jsonl"
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    lines = [
        row(),
        row(prompt=turns),
        row(revision="No."),
        row(critique=""),
        row(response=None),
        row(critique="a\nRevision: b"),
        row(prompt=turns[:2]),
    ]
    path.write_text("\n".join(lines))
    sifted = Critiques(str(path)).load()
    assert [parse_revision(r.answer) for r in sifted.rows] == [Revised("Rude.", "Because.")] * 2 + [
        Revised("Rude.", "No.")
    ]
    assert sifted.rows[0].meta["line"] == 1
    assert [d.reason for d in sifted.dropped] == [
        "empty critique",
        "empty response",
        "label in the critique",
        "no prompt",
    ]
    path.write_text(row() + '\n{"prompt": "Why?", "response": "No.", "revision": "x"}')
    with pytest.raises(DataError, match=r"people.jsonl:2: the row has no column 'critique'"):
        Critiques(str(path)).load()


def test_the_loss_is_on_critique_and_revision_alone(tiny_model: Path) -> None:
    from bezoar.chat.templates import ChatML
    from bezoar.model.tokenizer import load_tokenizer
    from bezoar.train.objectives.sft import SFT

    row = revision_chat("r", CHAT, Revised("Short.", "Longer."), {})
    assert isinstance(row, Chat)
    tokenizer = load_tokenizer(str(tiny_model))
    group = SFT(loss_on="answer").group(row, ChatML(), tokenizer)
    (completion,) = group.completions
    kept = [
        token for token, flag in zip(completion.tokens, completion.trained, strict=True) if flag
    ]
    assert (
        tokenizer.decode(kept).removesuffix("<|im_end|>") == "Critique: Short.\nRevision: Longer."
    )
