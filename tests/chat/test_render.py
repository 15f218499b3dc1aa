"""The laws of every renderer, over random chats whose words name special tokens, and each
renderer's own rules."""

import random
from collections.abc import Callable

import pytest

from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import DEFAULT_SYSTEM, ChatML, HubTemplate, OpenBezoarTemplate, Template
from bezoar.chat.tokenizer import ByteTokenizer, HubTokenizer, Tokenizer
from bezoar.chat.types import Message, Messages, ToolCall
from bezoar.errors import DataError
from tests.helpers.known_tokenizers import CHATML_TEMPLATE, smollm, special_ids, stories, tiny

WORDS = [
    "Hello",
    " there",
    "\n",
    "\n\n",
    "  ",
    "é",
    "naïve",
    "日本",
    "😀",
    "\u2028",
    "\ue000",
    "1.5e-4",
    "{'a': [1]}",
    "```py\n",
    "\tx",
    "<|im_end|>",
    "<|im_start|>",
    "</s>",
    "<s>",
    "<pad>",
    "<|endoftext|>",
    "### Instruction:",
    "### System:",
    "### Response:",
    "assistant\n",
    "{{ messages }}",
    "[INST]",
]

CASES: list[tuple[Template, Callable[[], Tokenizer]]] = [
    (ChatML(), ByteTokenizer),
    (ChatML("Be brief."), ByteTokenizer),
    (ChatML(), tiny),
    (ChatML(), smollm),
    (OpenBezoarTemplate(), ByteTokenizer),
    (OpenBezoarTemplate(), tiny),
    (OpenBezoarTemplate(), stories),
    (OpenBezoarTemplate(), smollm),
    (HubTemplate(), tiny),
    (HubTemplate(), smollm),
]
every_case = pytest.mark.parametrize(
    ("template", "make"),
    CASES,
    ids=lambda value: getattr(value, "kind", None) or getattr(value, "__name__", None),
)


def random_chats(num: int = 40) -> list[Messages]:
    rng = random.Random(5)

    def words() -> str:
        return "".join(rng.choice(WORDS) for _ in range(rng.randint(0, 6)))

    chats = []
    for _ in range(num):
        start = (Message("system", words()),) if rng.random() < 0.5 else ()
        turns = [
            Message(role, words())
            for _ in range(rng.randint(1, 3))
            for role in ("user", "assistant")
        ]
        chats.append((*start, *turns))  # type: ignore[arg-type]
    return chats


@every_case
def test_the_trained_answer_starts_where_the_generation_prompt_ends(
    template: Template, make: Callable[[], Tokenizer]
) -> None:
    tokenizer = make()
    for messages in random_chats():
        rendered = template.render(messages, tokenizer)
        turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
        assert len(rendered.answers) == len(turns)
        for index, (start, end) in zip(turns, rendered.answers, strict=True):
            assert rendered.tokens[:start] == template.prompt(messages[:index], tokenizer)
            assert rendered.tokens[end - 1] == template.end(tokenizer)
        inside = {position for start, end in rendered.answers for position in range(start, end)}
        assert {position for position, flag in enumerate(rendered.trained) if flag} == inside


@every_case
def test_parse_undoes_render(template: Template, make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    for messages in random_chats():
        rendered = template.render(messages, tokenizer)
        spans = [rendered.tokens[start:end] for start, end in rendered.answers]
        answers = [message for message in messages if message.role == "assistant"]
        assert [template.parse(span, tokenizer) for span in spans] == answers
        assert [template.parse([*span, 5, 6], tokenizer) for span in spans] == answers


@every_case
def test_words_never_become_special_tokens(
    template: Template, make: Callable[[], Tokenizer]
) -> None:
    tokenizer = make()
    special = special_ids(tokenizer)
    for messages in random_chats():
        plain = tuple(Message(message.role, "x") for message in messages)
        found = [token for token in template.render(messages, tokenizer).tokens if token in special]
        assert found == [
            token for token in template.render(plain, tokenizer).tokens if token in special
        ]


@every_case
def test_loss_on_all_trains_every_token_but_the_first(
    template: Template, make: Callable[[], Tokenizer]
) -> None:
    tokenizer = make()
    for messages in random_chats(10):
        answers_only, everything = (
            template.render(messages, tokenizer, loss_on=loss) for loss in ("answer", "all")
        )
        assert everything.tokens == answers_only.tokens
        assert everything.answers == answers_only.answers
        assert everything.trained == [False] + [True] * (len(everything.tokens) - 1)


@every_case
def test_a_prefill_begins_the_answer(template: Template, make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    for messages in random_chats(10):
        prompt = template.prompt(messages[:-1], tokenizer)
        begun = template.prompt(messages[:-1], tokenizer, prefill="<s> 1.")
        assert begun[: len(prompt)] == prompt
        assert tokenizer.decode(begun[len(prompt) :]) == "<s> 1."


SAID = ["", "  indented", "ends in spaces  ", "\n\nlines\n\n", "naïve 日本 😀", "a</b> `c`", "1.5"]


@pytest.mark.parametrize("make", [tiny, stories, smollm])
@pytest.mark.parametrize("template", [ChatML("Be brief."), OpenBezoarTemplate(), HubTemplate()])
def test_the_tokens_are_those_of_the_whole_text(
    template: Template, make: Callable[[], HubTokenizer]
) -> None:
    tokenizer = make()
    if (template.kind, make) in (("chatml", stories), ("hub", stories)):
        pytest.skip("its tokenizer has neither the markers nor a template")
    for words in SAID:
        messages = (
            Message("system", f"S{words}"),
            Message("user", words),
            Message("assistant", f"A{words}"),
            Message("user", words),
        )
        ids = template.prompt(messages, tokenizer)
        text = "".join(piece.text for piece in template.prompt_pieces(messages, tokenizer))
        if template.kind != "hub":
            # the end token of the answer is no piece
            text = text.replace(f"A{words}", f"A{words}{tokenizer.inner.eos_token}")
        else:
            rows = [{"role": m.role, "content": m.content} for m in messages]
            text = apply_template(tokenizer.inner, rows, add_generation_prompt=True)
        assert ids == tokenizer.inner.encode(text, add_special_tokens=False), words


def test_chatml_writes_the_markers() -> None:
    tokenizer = ByteTokenizer()
    rendered = ChatML("Be kind.").render(
        (Message("user", "Hi"), Message("assistant", "Yo")), tokenizer
    )
    text = (
        "<|im_start|>system\nBe"
        " kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert tokenizer.decode(rendered.tokens, markers=True) == text
    start, end = rendered.answers[0]
    assert tokenizer.decode(rendered.tokens[start:end], markers=True) == "Yo<|im_end|>"


def test_chatml_keeps_the_system_message_of_a_chat() -> None:
    messages = (Message("system", "A"), Message("user", "Hi"))
    assert ChatML("B").prompt(messages, ByteTokenizer()) == ChatML().prompt(
        messages, ByteTokenizer()
    )


def test_chatml_needs_its_end_token() -> None:
    with pytest.raises(DataError, match=r"no token <\|im_end\|>"):
        ChatML().check(ByteTokenizer(markers=("<pad>", "<s>", "</s>")))


def test_openbezoar_writes_the_blocks_and_falls_back_to_its_system_text() -> None:
    tokenizer, turns = (
        ByteTokenizer(),
        (Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Why?")),
    )
    text = tokenizer.decode(OpenBezoarTemplate().prompt(turns, tokenizer), markers=True)
    blocks = (
        "### Instruction:\nHi\n\n### Response:Yo</s>\n\n### Instruction:\nWhy?\n\n### Response:"
    )
    assert text == f"<s>### System:\n{DEFAULT_SYSTEM}\n\n{blocks}"
    empty = (Message("system", ""), *turns)
    assert OpenBezoarTemplate().prompt(empty, tokenizer) == OpenBezoarTemplate().prompt(
        turns, tokenizer
    )
    spoken = tokenizer.decode(
        OpenBezoarTemplate().prompt((Message("system", "Be brief."), *turns), tokenizer),
        markers=True,
    )
    assert spoken == f"<s>### System:\nBe brief.\n\n{blocks}"


def test_openbezoar_ends_an_unfinished_answer_at_the_next_block() -> None:
    tokenizer = ByteTokenizer()
    assert (
        OpenBezoarTemplate()
        .parse(tokenizer.encode("Yes.\n### Instruction:\nMore"), tokenizer)
        .content
        == "Yes.\n"
    )


def test_the_tokenizers_own_template_gives_the_tokens_of_apply_chat_template() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "Name a tree."),
        Message("assistant", "Oak."),
        Message("user", "2?"),
    )
    rows = [{"role": m.role, "content": m.content} for m in messages]
    tokenizer = tiny()
    expected = tokenizer.inner.apply_chat_template(
        rows, add_generation_prompt=True, return_dict=False
    )
    assert HubTemplate().prompt(messages, tokenizer) == expected
    assert ChatML().prompt(messages, tokenizer) == expected


@pytest.mark.real
def test_chatml_gives_the_tokens_of_smollm2s_own_template() -> None:
    tokenizer = smollm()
    said = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    turns = (
        Message("user", "Name a tree."),
        Message("assistant", "Oak.\n\nOr ash: é 😀"),
        Message("user", "Why  12.5?\n"),
    )
    rows = [{"role": m.role, "content": m.content} for m in turns]
    for count, opening in ((1, True), (2, False), (3, True)):
        expected = tokenizer.inner.apply_chat_template(
            rows[:count], add_generation_prompt=opening, return_dict=False
        )
        for template in (ChatML(said), HubTemplate()):
            make = template.prompt if opening else lambda m, t, r=template: r.render(m, t).tokens
            assert make(turns[:count], tokenizer) == expected


BOS = "{{ '<s>' }}"
REFUSED = {
    "changes the answer": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '!<|im_end|>' }}{%"
        " endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "changes the words": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('a', 'b') +"
        " '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n'"
        " }}{% endif %}"
    ),
    "rewrites earlier turns": "{{ messages | length }}" + CHATML_TEMPLATE,
    "refuses a conversation": (
        "{% if messages[0].role == 'user' %}{{ raise_exception('no users here') }}{% endif %}"
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_that_cannot_be_trained_on_is_refused(what: str) -> None:
    messages = tuple(Message(role, "banana") for role in ("user", "assistant", "user", "assistant"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=what) as error:
        HubTemplate().render(messages, tiny(REFUSED[what]))
    assert "\n" not in str(error.value)


def test_a_template_may_write_a_bos_and_trim_what_the_user_says() -> None:
    tokenizer = tiny(
        BOS + CHATML_TEMPLATE.replace("message['content']", "message['content'] | trim")
    )
    messages = (Message("user", "  Hi <|im_end|> \n"), Message("assistant", "Yo"))
    rendered = HubTemplate().render(messages, tokenizer)
    text = "<s><|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    assert tokenizer.decode(rendered.tokens, markers=True) == text
    assert sum(token == tokenizer.eos_id for token in rendered.tokens) == 2
    assert rendered.tokens[: rendered.answers[0][0]] == HubTemplate().prompt(
        messages[:1], tokenizer
    )


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(DataError, match="no chat template"):
        HubTemplate().check(ByteTokenizer())


@pytest.mark.parametrize("template", [ChatML(), OpenBezoarTemplate(), HubTemplate()])
def test_tool_calls_are_refused_rather_than_lost(template: Template) -> None:
    call = Message("assistant", "", (ToolCall("add", {"a": 1}),))
    with pytest.raises(DataError, match=r"calls? of"):
        template.render((Message("user", "Hi"), call), tiny())
