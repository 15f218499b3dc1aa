"""LM-Eval-Harness's model interface over a stack of ours: every choice of a question scored in one
tree, equal ones once.

Tokens, splits and truncation are those of the harness's own HFLM, so that the results are: context
and continuation are encoded together and cut at the length of the context encoded alone; too long
rows lose tokens on the left.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import HubTemplate, Template
from bezoar.chat.types import Message
from bezoar.errors import DataError
from bezoar.evals.preferences import context_length
from bezoar.model.prompt_group import PromptGroup, prompt_group
from bezoar.model.score import Scored, score
from bezoar.model.stack import Stack
from bezoar.progress import Progress

Encoded = tuple[Any, list[int], list[int]]


class StackLM(TemplateLM):  # type: ignore[misc]
    """A stack as the harness sees it. `num_cut` counts the requests that lost tokens on the
    left."""

    def __init__(
        self,
        stack: Stack,
        template: Template,
        progress: Progress | None = None,
        *,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__()
        self.stack, self.template, self.progress, self.max_tokens = (
            stack,
            template,
            progress or Progress(),
            max_tokens,
        )
        self.tokenizer = stack.tokenizer.inner
        self.max_length = context_length(stack)
        self.num_cut = 0

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the start token, else the end token."""
        return int(
            self.tokenizer.bos_token_id
            if self.tokenizer.bos_token_id is not None
            else self.eot_token_id
        )

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's folder or Hub id."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of one string."""
        return self._encode_all([string], add_special_tokens)[0]

    def _encode_all(
        self, strings: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """Ids of many strings: with the tokenizer's own special tokens unless told, never with two
        start tokens."""
        start = self.tokenizer.decode(self.prefix_token_id)
        out: list[list[int]] = [[] for _ in strings]
        for bare in (False, True):
            mine = [
                i
                for i, s in enumerate(strings)
                if (add_special_tokens is None and s.startswith(start)) == bare
            ]
            special = False if bare else add_special_tokens
            options = {} if special is None else {"add_special_tokens": special}
            for i, ids in zip(
                mine,
                self.tokenizer([strings[i] for i in mine], **options)["input_ids"] if mine else [],
                strict=True,
            ):
                out[i] = list(ids)
        return out

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability, is what greedy decoding writes) of every (context, continuation)."""
        pairs = [_trailing_space_moved(*request.args) for request in requests]
        with_context = [(c, w) for c, w in pairs if c]
        contexts = list(dict.fromkeys(c for c, _ in with_context))
        lengths = dict(zip(contexts, self._encode_all(contexts), strict=True))
        wholes = iter(self._encode_all([c + w for c, w in with_context]))
        encoded: list[Encoded] = []
        for context, continuation in pairs:
            if context:
                prefix = lengths[context]
                encoded.append(((context, continuation), prefix, next(wholes)[len(prefix) :]))
            else:
                ids, first = (
                    self.tok_encode(continuation, add_special_tokens=False),
                    self.prefix_token_id,
                )
                encoded.append(
                    (
                        ("", continuation),
                        *((ids[:1], ids[1:]) if ids[:1] == [first] else ([first], ids)),
                    )
                )
        return self._loglikelihood_tokens(encoded)

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], **_: Any
    ) -> list[tuple[float, bool]]:
        batches: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for i, (text, context, continuation) in enumerate(requests):
            context, continuation = self._fitted(text, context, continuation)
            batches.setdefault(tuple(context), {}).setdefault(tuple(continuation), []).append(i)
        groups = [
            prompt_group(prompt, list(completions)) for prompt, completions in batches.items()
        ]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for completions, scored in zip(batches.values(), self._score(groups), strict=True):
            for members, completion in zip(completions.values(), scored, strict=True):
                for i in members:
                    results[i] = (completion.total, completion.greedy)
        return results

    def _fitted(
        self, text: Any, context: list[int], continuation: list[int]
    ) -> tuple[list[int], list[int]]:
        """Context and continuation cut on the left to what the model can read."""
        if not continuation or len(continuation) > self.max_length:
            problem = (
                "has no token of its own"
                if not continuation
                else f"has more than {self.max_length} tokens"
            )
            raise DataError(
                f"the continuation of {text!r:.120} {problem}, so it cannot be scored; change or"
                " leave out the item."
            )
        room = self.max_length + 1 - len(continuation)
        if len(context) > room:
            self.num_cut += 1
        return context[-room:], continuation

    def _score(self, groups: list[PromptGroup]) -> list[list[Scored]]:
        """`score`, longest first, in pieces that let the progress be seen."""
        order = sorted(range(len(groups)), key=lambda i: -groups[i].num_input_tokens)
        results: list[list[Scored]] = [[] for _ in groups]
        with self.progress.bar("questions", len(groups)) as advance:
            while order:
                piece: list[int] = []
                num_tokens = 0
                while order and (not piece or num_tokens < 4 * self.max_tokens):
                    piece.append(order.pop(0))
                    num_tokens += groups[piece[-1]].num_input_tokens
                for i, scored in zip(
                    piece,
                    score(self.stack, [groups[i] for i in piece], max_tokens=self.max_tokens),
                    strict=True,
                ):
                    results[i] = scored
                advance(len(piece))
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts, in windows that do not overlap and have one token of
        context."""
        owners, windows = [], []
        for answer_index, request in enumerate(requests):
            pieces = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            for piece in pieces:
                owners.append(answer_index)
                windows.append((request.args[0], *make_disjoint_window(piece)))
        totals = [0.0] * len(requests)
        for answer_index, (logprob, _) in zip(
            owners, self._loglikelihood_tokens(windows), strict=True
        ):
            totals[answer_index] += logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text after each prompt, up to the first stop string."""
        from bezoar.model.generation import generate
        from bezoar.model.sampling import SamplingParams

        ends = self._end_tokens()
        prompts, limits, stops = [], [], []
        for request, tokens in zip(
            requests, self._encode_all([r.args[0] for r in requests]), strict=True
        ):
            options = normalize_gen_kwargs(request.args[1], 256)
            num, stop = (
                int(options["max_gen_toks"]),
                handle_stop_sequences(
                    options.get("until"), self.tokenizer.decode(self.eot_token_id)
                ),
            )
            if num >= self.max_length:
                raise DataError(
                    f"task {request.task_name}: max_gen_toks {num} leaves no room in the model's"
                    f" context of {self.max_length}."
                )
            self.num_cut += len(tokens) > self.max_length - num
            prompts.append(tokens[-(self.max_length - num) :])
            stops.append(stop)
            heat = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            limits.append(
                SamplingParams(
                    max_tokens=num,
                    temperature=heat,
                    top_p=float(options.get("top_p", 1.0)),
                    stop_tokens=ends,
                    stop=tuple(stop),
                )
            )
        made = generate(self.stack, prompts, limits)
        return [
            postprocess_generated_text(
                self.tokenizer.decode(one.tokens, skip_special_tokens=True), stop, None
            )
            for one, stop in zip(made, stops, strict=True)
        ]

    def _end_tokens(self) -> tuple[int, ...]:
        known = getattr(self.stack.net.generation_config, "eos_token_id", None)
        more = known if isinstance(known, list) else [] if known is None else [known]
        return tuple(dict.fromkeys([self.eot_token_id, *more]))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a prompt by the recipe's template; without a generation prompt the last
        message begins the answer."""
        if isinstance(self.template, HubTemplate):
            return apply_template(
                self.tokenizer,
                chat_history,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        messages = tuple(Message(m["role"], m["content"]) for m in chat_history)  # type: ignore[arg-type]
        prefill = "" if add_generation_prompt else messages[-1].content
        asked = messages if add_generation_prompt else messages[:-1]
        return self.stack.tokenizer.decode(
            self.template.prompt(asked, self.stack.tokenizer, prefill=prefill), markers=True
        )

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What names the template."""
        return (
            str(self.tokenizer.chat_template)
            if isinstance(self.template, HubTemplate)
            else repr(self.template)
        )


def _trailing_space_moved(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of the context belong to the continuation's first token."""
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if context else ("", continuation)
