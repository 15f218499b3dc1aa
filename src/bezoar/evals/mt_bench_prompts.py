"""What a judge of MT-Bench is asked for a grade: our prompts, or those of FastChat's file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bezoar.chat.types import Message, Messages
from bezoar.data.files import locate_file
from bezoar.data.questions import REFERENCE_CATEGORIES, Question
from bezoar.data.rows import read_file, text
from bezoar.errors import DataError
from bezoar.io import content_hash
from bezoar.prompts import fill, read_prompt, seal
from bezoar.references import FileRef

Prompts = Literal["own"] | FileRef
_OWN = ("single", "single-reference", "second-turn", "second-turn-reference")
_FASTCHAT = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


class FastChatPrompt(NamedTuple):
    """FastChat's system message and the text around question, answer and reference."""

    system: str
    template: str


def prompt_files(prompts: str) -> list[Path]:
    """The files of the package with the prompts; none where the recipe names one."""
    refs = [f"bezoar:mt_bench/{name}.md" for name in _OWN if prompts == "own"]
    return [locate_file(ref, Path(), "MT-Bench") for ref in refs]


def prompts_hash(prompts: str = "own") -> str:
    """Names the wording of the prompts."""
    if prompts == "own":
        return content_hash([read_prompt(f"bezoar:mt_bench/{name}.md") for name in _OWN])
    return content_hash(list(fastchat_prompts(prompts).values()))


def fastchat_prompts(prompts: str) -> dict[str, FastChatPrompt]:
    """The four prompts for single answers of FastChat's judge_prompts.jsonl, by their names there.
    DataError where the file lacks one."""
    path = locate_file(prompts, Path(), "mt_bench.prompts")
    found = {
        text(row, "name", at): FastChatPrompt(str(row.get("system_prompt") or ""), template)
        for at, row in read_file(path, path.name)
        if (template := text(row, "prompt_template", at))
    }
    if missing := [name for name in _FASTCHAT if name not in found]:
        what = f"there is no prompt {missing[0]!r} in it; name FastChat's judge_prompts.jsonl"
        raise DataError(f"{path}: {what}.")
    return {name: found[name] for name in _FASTCHAT}


def lacks_reference(question: Question, turn: int) -> bool:
    """Whether a turn of a category that is compared with references has none; to the second turn
    belong those of both."""
    given = question.references[: turn + 1]
    needs = question.category in REFERENCE_CATEGORIES
    return needs and not (len(given) > turn and all(given))


def without_reference(questions: Sequence[Question]) -> list[str]:
    """The questions that lack a reference in a category that has them: "123", "103 (turn 2)"."""
    names = []
    for question in questions:
        lacking = [t for t in range(len(question.turns)) if lacks_reference(question, t)]
        if lacking:
            names.append(f"{question.id}{' (turn 2)' if lacking[0] else ''}")
    return names


def judge_messages(
    question: Question, answers: Sequence[str], turn: int, fastchat: Mapping[str, FastChatPrompt]
) -> Messages:
    """The messages that ask for a grade of a turn, in FastChat's words where they are given."""
    if not fastchat:
        return (Message("user", judge_prompt(question, answers, turn)),)
    prompt = fastchat[_FASTCHAT[2 * turn + _with_reference(question, turn)]]
    values = {"question": question.turns[0], "answer": answers[0]}
    values |= _numbered("question", question.turns) | _numbered("answer", answers)
    values |= _numbered("ref_answer", question.references)
    asked = Message("user", fill(prompt.template, **values))
    return (Message("system", prompt.system), asked) if prompt.system else (asked,)


def judge_prompt(question: Question, answers: Sequence[str], turn: int) -> str:
    """Our text that asks for a grade of a turn, with references if the category needs them."""
    # the second turn is graded in view of the first, FastChat's way
    values = {"question": question.turns[0], "answer": answers[0]}
    if turn:
        values = {f"{name}_1": text for name, text in values.items()}
        values |= {"question_2": question.turns[1], "answer_2": answers[1]}
    needed = list(values)
    name = _OWN[2 * turn + _with_reference(question, turn)]
    if _with_reference(question, turn):
        first, last = question.references[0], question.references[-1]
        # the second turn's prompt shows both references, the first turn's one
        values |= {"reference": first, "reference_1": first, "reference_2": last}
    return seal(read_prompt(f"bezoar:mt_bench/{name}.md", *needed), **values)


def _with_reference(question: Question, turn: int) -> bool:
    return question.category in REFERENCE_CATEGORIES and not lacks_reference(question, turn)


def _numbered(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{number}": text for number, text in enumerate(texts, 1)}
