"""Tokens are those of the whole text: with every template, from a SentencePiece file as from bytes,
also where words name special tokens; and the fast tokenizer is as exact as the slow one."""

import random
from collections.abc import Callable

import pytest

from bezoar.chat.added_tokens import _renamed
from bezoar.chat.sentencepiece_file import from_file
from bezoar.chat.templates import ChatML, HubTemplate, OpenBezoarTemplate, Template
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Message, Messages
from bezoar.errors import DataError
from tests.chat.test_render import random_chats
from tests.helpers.known_tokenizers import pieces_folder, smollm, spaced, stories, tiny

WORDS = [
    "Hello",
    " there",
    "\n",
    "\n\n",
    "  ",
    "é",
    "日本",
    "😀",
    "1.5e-4",
    "{'a'",
    "\tx",
    "<s>",
    "</s>",
]
WORDS += ["<unk>", "    ", " a", "river", "the ", "### Response:", "ﬁ", "１"]


def lossy() -> HubTokenizer:
    return spaced(lossy=True)


@pytest.mark.parametrize("make", [spaced, lossy])
def test_a_sentencepiece_file_gives_its_own_tokens(make: Callable[[], HubTokenizer]) -> None:
    from sentencepiece import SentencePieceProcessor

    folder, rng = pieces_folder(lossy=make is lossy), random.Random(2)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = make()
    for _ in range(200):
        text = "".join(rng.choices(WORDS, k=rng.randint(0, 8)))
        assert tokenizer.encode(text) == pieces.encode(text), text


def test_the_conversion_of_transformers_is_still_wrong() -> None:
    """Where this fails, its conversion has been mended and ours may go."""
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    folder = pieces_folder()
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = ["    def f(x):", " one", "       a     b"]
    found = [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert found != [pieces.encode(text) for text in texts]


def test_a_label_is_glued_to_its_prompt() -> None:
    """`### Response:Once`, not `### Response: Once`, as in the paper."""
    from sentencepiece import SentencePieceProcessor

    file = str(pieces_folder() / "tokenizer.model")
    pieces = SentencePieceProcessor(model_file=file)
    tokenizer, template = spaced(), OpenBezoarTemplate()
    messages = (Message("system", "S"), Message("user", "Hi"), Message("assistant", "Once upon"))
    rendered = template.render(messages, tokenizer)
    text = "### System:\nS\n\n### Instruction:\nHi\n\n### Response:Once upon"
    assert rendered.tokens == [1, *pieces.encode(text), 2]
    start, end = rendered.answers[0]
    assert tokenizer.decode(rendered.tokens[start:end]) == "Once upon"


CASES: list[tuple[Template, Callable[[], HubTokenizer]]] = [
    (ChatML("Be brief."), tiny),
    (HubTemplate(), tiny),
    (OpenBezoarTemplate(), tiny),
    (OpenBezoarTemplate(), spaced),
    (OpenBezoarTemplate(), stories),
    (ChatML(), smollm),
    (OpenBezoarTemplate(), smollm),
]


@pytest.mark.parametrize(("template", "make"), CASES, ids=lambda v: getattr(v, "kind", None))
def test_words_that_name_special_tokens_are_tokenised_with_their_neighbours(
    template: Template, make: Callable[[], HubTokenizer]
) -> None:
    """Independently: a tokenizer with other names for its special tokens, in which the names that
    people write are only words, reads the whole text at once."""
    tokenizer = make()
    special = sorted({str(t) for t in tokenizer.inner.added_tokens_decoder.values() if t.special})
    names = {name: f"\ue000{number}\ue001" for number, name in enumerate(special)}
    renamed = _renamed(tokenizer.inner, names)
    num = 0
    for messages in random_chats(25):
        prompt = messages[:-1]
        if any(m.role == "assistant" for m in prompt) or any("\ue000" in m.content for m in prompt):
            continue
        pieces = template.prompt_pieces(prompt, tokenizer)
        text = ""
        for piece in pieces:
            own = piece.text
            for name in special if piece.markers else ():
                own = own.replace(name, names[name])
            text += own
        expected = renamed.encode(text, add_special_tokens=False)
        assert template.prompt(prompt, tokenizer) == expected, prompt
        num += 1
    assert num > 4


def test_a_file_that_is_no_sentencepiece_model_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "tokenizer.model"
    file.write_bytes(b"no model")
    with pytest.raises(DataError, match="no SentencePiece model can be read from it"):
        from_file(file, spaced().inner)


def test_what_is_exported_reads_the_same(tmp_path: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = spaced()
    tokenizer.inner.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    chat: Messages = (Message("user", "  a  b\n\n"), Message("assistant", "    x"))
    tokens = OpenBezoarTemplate().render(chat, tokenizer).tokens
    assert OpenBezoarTemplate().render(chat, HubTokenizer(again)).tokens == tokens
