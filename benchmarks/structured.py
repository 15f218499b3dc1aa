"""What holding answers to a form costs: tokens a second with and without, and the masks alone.

    python benchmarks/structured.py MODEL_FOLDER

The same prompts, greedy, answers of equal length: the form is a text that never ends, so that both
decode the same number of tokens.
"""

import sys
import time

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Message
from bezoar.model.generation import generate
from bezoar.model.sampling import SamplingParams
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.structured_output import StructuredOutput
from bezoar.model.token_masks import FormMatcher
from bezoar.terminal import Console

NUM, TOKENS = 8, 48
FORMS = {
    "no form": None,
    "regex": StructuredOutput(regex=r"(Accept|Reject): [^\n]{4000}"),
    "json": StructuredOutput.schema(
        {"type": "array", "items": {"type": "integer"}, "minItems": 99}
    ),
}


def main() -> None:
    """Print a line for each form."""
    console = Console()
    stack = Stack(ModelSpec(sys.argv[1]), [])
    tokenizer, template = stack.tokenizer, ChatML()
    prompts = [
        template.prompt((Message("user", f"Is {n} a good number? Say why."),), tokenizer)
        for n in range(NUM)
    ]
    generate(stack, prompts[:1], SamplingParams(2, form=FORMS["json"]))  # reads the vocabulary
    base = 0.0
    for name, form in FORMS.items():
        started = time.process_time()
        answers = generate(stack, prompts, SamplingParams(TOKENS, form=form))
        seconds = time.process_time() - started
        rate = sum(len(answer.tokens) for answer in answers) / seconds
        base = base or rate
        line = f"{name}: {rate:.0f} tokens a CPU second, {rate / base:.2f} of no form"
        if form:
            size, ends = int(stack.head_weight.shape[0]), (tokenizer.eos_id,)
            matcher = FormMatcher(form, tokenizer.inner, ends, size)
            started = time.process_time()
            for token in answers[0].tokens:
                matcher.allowed(size)
                matcher.append(token)
            mask_s = (time.process_time() - started) / len(answers[0].tokens)
            line += f"; {1e6 * mask_s:.0f} us for a mask"
        console.print(line)


if __name__ == "__main__":
    main()
