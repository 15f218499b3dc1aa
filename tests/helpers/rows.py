"""Rows for tests of training."""

import json
import random
from dataclasses import replace
from pathlib import Path

from bezoar.chat.types import Chat, Comparison, Message, SampledAnswers

TEXT = "the cat sat on a mat and saw that rain fell over old stones while seven geese flew south"
WORDS = TEXT.split()


def sentence(number: int, length: int) -> str:
    """A sentence of `length` words that differs by number."""
    return " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(length))


def chats(count: int) -> list[Chat]:
    """Chats of one to three exchanges."""
    rows = []
    for n in range(count):
        messages = [
            m
            for turn in range(n % 3 + 1)
            for m in (
                Message("user", sentence(n + turn, 2 + n % 4)),
                Message("assistant", sentence(n * 3 + turn, 1 + n % 6)),
            )
        ]
        rows.append(Chat(f"chat-{n}", tuple(messages)))
    return rows


def judged(count: int) -> list[Chat]:
    """Chats of which every other one is said to be good."""
    return [replace(chat, meta={"desirable": n % 2 == 0}) for n, chat in enumerate(chats(count))]


def labelled(count: int) -> list[Chat]:
    """Chats, some with one label of two."""
    rows = []
    for n, chat in enumerate(chats(count)):
        labels = {"helpfulness": n % 5, **({"verbosity": (n + 2) % 5} if n % 3 else {})}
        rows.append(Chat(chat.id, chat.messages, {"attributes": labels}))
    return rows


def noise(count: int) -> list[Chat]:
    """Chats whose answers are random letters: what is learned on some says nothing about the
    others."""
    draw = random.Random(0)
    return [
        Chat(
            f"noise-{n}",
            (
                Message("user", "say"),
                Message("assistant", "".join(draw.choices("abcdefghijklmnop", k=8))),
            ),
        )
        for n in range(count)
    ]


def sampled(count: int) -> list[SampledAnswers]:
    """Three answers to a prompt with the numbers that SteerLM 2.0 reads."""
    rows = []
    for n, chat in enumerate(chats(count)):
        answers = tuple(sentence(n + i, 1 + (n + i) % 4) + "!" * i for i in range(3))
        numbers = {
            "attribute_logprob": (-1.0 - n % 3, -2.0, -0.5),
            "prior_logprob": tuple(-2.5 * len(text) for text in answers),
        }
        rows.append(SampledAnswers(f"sampled-{n}", chat.messages[:-1], answers, numbers))
    return rows


def pairs(count: int) -> list[Comparison]:
    """Comparisons whose answers differ in length, some after several turns."""
    rows = []
    for n in range(count):
        prompt = chats(count)[n].messages[:-1]
        rows.append(
            Comparison(
                f"pair-{n}", prompt, sentence(n, 2 + n % 5), sentence(n + 1, 1 + n % 3) + "."
            )
        )
    return rows


def plant_judged(folder: Path, num: int, *rubrics: str) -> None:
    """`rows.jsonl` with so many rows, and a text for each rubric that names it."""
    rows = [
        {"prompt": f"Seed question number {i}?", "response": f"Answer {i}."} for i in range(num)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in rubrics:
        (folder / f"{name}.txt").write_text(f"Rubric {name}: Accept or Reject?\n{{record}}\n")
