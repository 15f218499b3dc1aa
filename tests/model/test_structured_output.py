"""Answers that are held to a form while they are drawn, by models of random weights."""

import copy
import json
import random
import re
from dataclasses import fields
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

from bezoar.chat.messages import Tool, ToolCall
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.tool_calls import read_answer, read_calls, write_answer
from bezoar.model.generation import Generated, generate
from bezoar.model.prompt_group import prompt_group
from bezoar.model.sampling import SamplingParams
from bezoar.model.score import score
from bezoar.model.spec import ModelSpec, Sampling
from bezoar.model.stack import Stack
from bezoar.model.structured_output import StructuredOutput
from bezoar.model.token_masks import FormMatcher, mask_logits
from tests.helpers import tiny_nets
from tests.helpers.known_tokenizers import pieces_folder

CHOICES = ("Accept", "Accepted, with thanks", "Reject", "é漢", "yes or no", " no")


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A tiny random model, with a tokenizer of bytes or of SentencePiece."""
    if request.param == "bytes":
        return Stack(ModelSpec(str(request.getfixturevalue("tiny_model")), dtype="float32"))
    folder = tiny_nets.make(
        "llama",
        tmp_path_factory.mktemp("pieces") / "model",
        pieces_folder(),
        vocab_size=330,  # ten more than the tokenizer has
        bos_token_id=1,
        eos_token_id=2,
    )
    return Stack(ModelSpec(str(folder), dtype="float32"))


def drawn(stack: Stack, forms: list[StructuredOutput], max_tokens: int = 90) -> list[Generated]:
    """An answer in each form, drawn hot, with a seed of its own."""
    prompts = [stack.tokenizer.encode(f"prompt {number}") for number in range(len(forms))]
    params = [
        SamplingParams(
            max_tokens, 1.2, 0.97, stop_tokens=(stack.tokenizer.eos_id,), seed=number, form=form
        )
        for number, form in enumerate(forms)
    ]
    return generate(stack, prompts, params, slots=50)


def some_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A JSON Schema of what a tool's argument or an answer may be."""
    kinds = ["integer", "number", "boolean", "null", "string", "pattern", "enum", "const", "date"]
    kind = rng.choice([*kinds, "array", "object", "object", "anyOf"] if depth else kinds)
    match kind:
        case "integer" | "number":
            low = rng.randrange(-50, 50)
            return {"type": kind, "minimum": low, "maximum": low + rng.randrange(0, 900)}
        case "string":
            return {"type": "string", "minLength": rng.randrange(3), "maxLength": 5}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[a-z]{2}-\\d+$", "^a|b$", "x?yé"])}
        case "enum":
            return {"enum": [rng.choice([1, "one", None, 'a "b"', [1, {}], "漢"]), "other"]}
        case "const":
            return {"const": rng.choice(["c\\d\n", 0.5, {"a": [None]}])}
        case "date":
            return {"type": "string", "format": "date"}
        case "array":
            items = some_schema(rng, depth - 1)
            return {"type": "array", "items": items, "maxItems": 3, "minItems": rng.randrange(2)}
        case "anyOf":
            return {"anyOf": [some_schema(rng, depth - 1) for _ in range(2)]}
        case "object":
            names = rng.sample(["name", "city", "a b", "é", 'q"', "size"], rng.randrange(1, 4))
            return {
                "type": "object",
                "properties": {name: some_schema(rng, depth - 1) for name in names},
                "required": names[: rng.randrange(len(names) + 1)],
                "additionalProperties": False,
            }
    return {"type": kind}


def some_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:1],
        "additionalProperties": False,
    }


def test_answers_parse_and_are_valid_by_200_schemas(stack: Stack) -> None:
    rng = random.Random(0)
    schemas = [some_schema(rng, rng.choice((0, 1, 1, 2))) for _ in range(200)]
    answers = drawn(stack, [StructuredOutput.schema(schema) for schema in schemas], 64)
    for schema, answer in zip(schemas, answers, strict=True):
        assert answer.finish in ("stop", "length"), (schema, answer.error)
        if answer.finish == "stop":
            text = stack.tokenizer.decode(answer.tokens)
            jsonschema.validate(json.loads(text), schema)
            assert json.dumps(json.loads(text)).count(" ") <= text.count(" ") + 1  # on one line
    assert sum(answer.finish == "stop" for answer in answers) >= 150


def test_every_token_is_one_that_a_search_through_all_texts_allows(stack: Stack) -> None:
    """Against the slow reference: every token tried against every choice, at every step."""
    tokenizer, form = stack.tokenizer, StructuredOutput(choice=CHOICES)
    special = set(tokenizer.inner.all_special_ids)
    size, bytes_of = int(stack.head_weight.shape[0]), token_bytes(stack)
    for answer in drawn(stack, [form] * 8):
        matcher = FormMatcher(form, tokenizer.inner, (tokenizer.eos_id,), size)
        said = b""
        for token in [*answer.tokens, tokenizer.eos_id]:
            wanted = {
                t
                for t in set(bytes_of) - special
                if any(c.encode().startswith(said + bytes_of[t]) for c in CHOICES)
            }
            wanted |= {tokenizer.eos_id} if said.decode("utf-8", "replace") in CHOICES else set()
            allowed = set(matcher.allowed(size).nonzero()[0].tolist())
            # of what can only go on in one way the library may leave the tokenizer's own tokens
            ways = {c.encode()[len(said) :][:1] for c in CHOICES if c.encode().startswith(said)}
            assert allowed == wanted or (len(ways) == 1 and allowed < wanted), said
            assert token in allowed
            if token != tokenizer.eos_id:
                matcher.append(token)
                said += bytes_of[token]
        assert tokenizer.decode(answer.tokens) in CHOICES
        assert answer.finish == "stop"


def token_bytes(stack: Stack) -> dict[int, bytes]:
    """What each token writes behind other text."""
    inner, letters = stack.tokenizer.inner, {}
    if len(inner) < 300:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    written = {}
    for token in range(len(inner)):
        piece = inner.convert_ids_to_tokens(token)
        if byte := re.fullmatch("<0x(..)>", piece):
            written[token] = bytes.fromhex(byte[1])
        elif letters:
            written[token] = bytes(letters.get(letter, 0) for letter in piece)
        else:
            written[token] = piece.replace("▁", " ").encode()
    return {token: piece for token, piece in written.items() if piece}


def test_a_regular_expression_and_the_end(stack: Stack) -> None:
    pattern = r"(ab)*c?\[\[[ABC]\]\]( because [a-z]{0,9})?"
    answers = drawn(stack, [StructuredOutput(regex=pattern)] * 40, 60)
    texts = [stack.tokenizer.decode(answer.tokens) for answer in answers]
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert {answer.finish for answer in answers} == {"stop"}
    assert any("because" in text for text in texts)
    assert any(text.endswith("]]") for text in texts)


def test_a_form_that_is_cut_off_says_so(stack: Stack) -> None:
    (answer,) = drawn(stack, [StructuredOutput(regex="[a-z]{50}")], 10)
    assert (answer.finish, len(answer.tokens)) == ("length", 10)
    # the last token that may be written completes the form
    closed = StructuredOutput(regex="[q-z]{3}é")
    most = len(stack.tokenizer.encode("zzzé", after="\n"))
    assert drawn(stack, [closed], most)[0].finish == "stop"


def test_only_the_slots_with_a_form_are_masked(stack: Stack) -> None:
    """Answers without a form are those of the model by itself, whoever stands beside them."""
    prompts = [stack.tokenizer.encode(f"prompt {number}") for number in range(6)]
    free = [SamplingParams(20, 0.9, seed=number) for number in range(6)]
    form = StructuredOutput(choice=("yes", "no"))
    held = [
        SamplingParams(20, 0.9, seed=n, form=form if n % 2 else None, stop_tokens=(2,))
        if n % 2
        else params
        for n, params in enumerate(free)
    ]
    alone, beside = generate(stack, prompts, free), generate(stack, prompts, held)
    assert [a.tokens for a in alone[::2]] == [a.tokens for a in beside[::2]]
    assert {stack.tokenizer.decode(a.tokens) for a in beside[1::2]} <= {"yes", "no"}
    logits = torch.randn(2, int(stack.head_weight.shape[0]))
    before = logits.clone()
    mask_logits(logits, [])
    assert logits.equal(before)


TOOLS = (
    Tool("add", "", some_object(a={"type": "integer"}, b={"type": "number", "maximum": 9})),
    Tool(
        "say.it",
        'A "text"',
        some_object(text={"type": "string", "maxLength": 7}, loud={"type": "boolean"}),
    ),
    Tool("now"),
)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("written", ["text", "tokens"])
def test_calls_of_tools_are_valid(stack: Stack, written: str, required: bool) -> None:
    """Whether the tags are tokens of their own or are written in pieces."""
    if written == "tokens":
        if len(stack.tokenizer.inner) + 2 > int(stack.head_weight.shape[0]):
            pytest.skip("no room for two tokens more")
        stack = copy.copy(stack)
        inner = copy.deepcopy(stack.tokenizer.inner)
        tags = ("<tool_call>", "</tool_call>")
        inner.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
        stack.tokenizer = HubTokenizer(inner)
    form = StructuredOutput.calls(TOOLS, required=required)
    prompts = [stack.tokenizer.encode(f"prompt {number}") for number in range(12)]
    stop = (stack.tokenizer.eos_id,)
    params = [SamplingParams(180, 1.2, 1.0, stop, seed=n, form=form) for n in range(12)]
    answers = generate(stack, prompts, params, slots=12)
    num_calls = 0
    for answer in answers:
        assert answer.finish != "error", answer.error
        if answer.finish == "length":
            continue
        text = stack.tokenizer.decode(answer.tokens)
        calls = read_calls(text)
        num_calls += len(calls)
        assert ("<tool_call>" in text) == bool(calls)
        for call in calls:
            assert isinstance(call, ToolCall), call
            (tool,) = [tool for tool in TOOLS if tool.name == call.name]
            jsonschema.validate(call.arguments, tool.parameters)
        if required:
            assert calls
            # a letter may be escaped where `json.dumps` does not
            assert read_answer(write_answer(read_answer(text))) == read_answer(text)
    assert num_calls >= 3 or not required, [stack.tokenizer.decode(a.tokens) for a in answers]


def test_a_closing_tag_in_an_argument_cannot_be_drawn(stack: Stack) -> None:
    form = StructuredOutput.calls(TOOLS)
    size, inner = int(stack.head_weight.shape[0]), stack.tokenizer.inner

    def taken(text: str) -> str:
        """So much of the text as the form lets be written."""
        matcher = FormMatcher(form, inner, (stack.tokenizer.eos_id,), size)
        ids = stack.tokenizer.encode(text, after="\n")
        num = matcher.matcher.try_consume_tokens(ids)
        return stack.tokenizer.decode(ids[:num])

    good = '{"name": "say.it", "arguments": {"text": "<b> é", "loud": true}}'
    good = f"So:\n<tool_call>\n{good}\n</tool_call>"
    assert taken(good) == good
    assert taken("Is 1 < 2? <tool_") == "Is 1 < 2? <tool_"
    for bad, most in (
        ('<tool_call>\n{"name": "say.it", "arguments": {"text": "a</tool_call>', '"a<'),
        ('<tool_call>\n{"name": "nobody"', '"name": "no'),
        ('<tool_call>\n{"name": "add", "arguments": {"a": "x"', '{"a": '),
        ("text <tool_call>x", "<tool_call>"),
    ):
        assert taken(bad).endswith(most), (bad, taken(bad))


@pytest.mark.parametrize(
    "form",
    [
        StructuredOutput.schema({"not": {"type": "string"}}),
        StructuredOutput.schema({"type": "integer", "minimum": 5, "maximum": 3}),
        StructuredOutput.schema({"type": "strin"}),
        StructuredOutput(regex="a(?=b)"),
        StructuredOutput(regex="["),
    ],
)
def test_a_form_that_cannot_be_held_is_an_error_of_that_answer(
    stack: Stack, form: StructuredOutput
) -> None:
    bad, good = drawn(stack, [form, StructuredOutput(choice=("yes",))])
    assert (bad.finish, bad.tokens, good.finish) == ("error", [], "stop")
    assert bad.error
    assert "\n" not in bad.error


def test_one_form_at_a_time() -> None:
    with pytest.raises(ValueError, match="json, regex, choice or tools"):
        StructuredOutput()
    with pytest.raises(ValueError, match="give one"):
        StructuredOutput(regex="a", choice=("a",))


def test_log_probabilities_are_those_of_the_model_without_the_form(stack: Stack) -> None:
    """Of answers that were drawn under a form, too: training on them recomputes log P."""
    (answer,) = drawn(stack, [StructuredOutput(choice=("Accept", "Reject"))])
    prompt = stack.tokenizer.encode("prompt 0")
    (scored,) = score(stack, [prompt_group(prompt, [answer.tokens])])
    row = torch.tensor([[*prompt, *answer.tokens]])
    net = AutoModelForCausalLM.from_pretrained(stack.spec.path, dtype=torch.float32)
    with torch.no_grad():
        plain = net(row).logits[0].log_softmax(-1)
    wanted = sum(float(plain[len(prompt) - 1 + n, token]) for n, token in enumerate(answer.tokens))
    assert scored[0].total == pytest.approx(wanted, abs=1e-3)
    assert wanted < -5  # under the form it would be log 1/2
    # what PPO and GRPO draw with has no form
    assert "form" not in {field.name for field in fields(Sampling)}
