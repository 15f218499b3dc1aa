"""LM-Eval-Harness's model interface over a stack, and over a language model that only answers.

A stack gives the results of the harness's own HFLM. Context and continuation are encoded together
and cut at the length of the context encoded by itself; long rows lose tokens on the left.
"""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bezoar.chat.template_process import apply_template
from bezoar.chat.templates import HubTemplate, Template
from bezoar.chat.types import Message
from bezoar.errors import DataError, EndpointError, RecipeError
from bezoar.llm.types import Ask, Request
from bezoar.model.generation import generate
from bezoar.model.prompt_group import PromptGroup, prompt_group
from bezoar.model.sampling import SamplingParams
from bezoar.model.score import Scored, score
from bezoar.model.stack import Stack
from bezoar.progress import Progress

Encoded = tuple[Any, list[int], list[int]]
"""(context and continuation as text, tokens of the context, tokens of the continuation)."""
MAX_NEW_TOKENS = 256  # of a task that does not say


class StackLM(TemplateLM):  # type: ignore[misc]
    """A stack as the harness sees it; `num_cut` counts requests that lost tokens on the left."""

    max_tokens = 4096  # scored in one pass of the model

    def __init__(self, stack: Stack, template: Template, progress: Progress | None = None) -> None:
        super().__init__()
        self.stack, self.template, self.tokenizer = stack, template, stack.tokenizer.inner
        self.progress = progress or Progress()
        self.max_length = stack.context_length
        self.num_cut = 0

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the start token, else the end token."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's folder or Hub id."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Ids of one string."""
        return self._encode_all([string], add_special_tokens)[0]

    def _encode_all(
        self, strings: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """Ids of many strings; None means the tokenizer's own special tokens, never two starts."""
        start = self.tokenizer.decode(self.prefix_token_id)
        ids: list[list[int]] = [[] for _ in strings]
        # two batches: strings that begin with the start token must not get a second one
        starts = [add_special_tokens is None and string.startswith(start) for string in strings]
        for has_start in (False, True):
            members = [i for i, begins in enumerate(starts) if begins == has_start]
            special = False if has_start else add_special_tokens
            options = {} if special is None else {"add_special_tokens": special}
            batch = [strings[i] for i in members]
            encoded = self.tokenizer(batch, **options)["input_ids"] if batch else []
            for i, tokens in zip(members, encoded, strict=True):
                ids[i] = list(tokens)
        return ids

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding writes it) of every (context, continuation)."""
        pairs = [_trailing_space_moved(*request.args) for request in requests]
        # every context is encoded once, though it stands before each of its choices
        with_context = [(context, text) for context, text in pairs if context]
        contexts = list(dict.fromkeys(context for context, _ in with_context))
        tokens_of = dict(zip(contexts, self._encode_all(contexts), strict=True))
        wholes = iter(self._encode_all([context + text for context, text in with_context]))
        encoded: list[Encoded] = []
        for context, text in pairs:
            if context:
                prompt = tokens_of[context]
                continuation = next(wholes)[len(prompt) :]
            else:
                prompt = [self.prefix_token_id]
                ids = self.tok_encode(text, add_special_tokens=False)
                continuation = ids[1:] if ids[:1] == prompt else ids
            encoded.append(((context, text), prompt, continuation))
        return self._loglikelihood_tokens(encoded)

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], **_: Any
    ) -> list[tuple[float, bool]]:
        # 1) the choices of one context become one group, equal ones a single completion of it
        members: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for i, (text, context, continuation) in enumerate(requests):
            prompt = self._fitted(text, context, continuation)
            same_prompt = members.setdefault(tuple(prompt), {})
            same_prompt.setdefault(tuple(continuation), []).append(i)
        groups = [prompt_group(prompt, list(texts)) for prompt, texts in members.items()]
        # 2) each group is scored in one pass, and its results go to all requests that it stands for
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for texts, scored in zip(members.values(), self._score(groups), strict=True):
            for indices, completion in zip(texts.values(), scored, strict=True):
                for i in indices:
                    results[i] = (completion.total, completion.greedy)
        return results

    def _fitted(self, text: Any, context: list[int], continuation: list[int]) -> list[int]:
        """The context, cut on the left to what the model can read before the continuation."""
        if not 0 < len(continuation) <= self.max_length:
            too_many = f"has more than {self.max_length} tokens"
            fault = too_many if continuation else "has no token of its own"
            raise DataError(f"the continuation of {text!r:.120} {fault}; mend or remove the item.")
        # the last token of the continuation is predicted, never read
        room = self.max_length + 1 - len(continuation)
        self.num_cut += len(context) > room
        return context[-room:]

    def _score(self, groups: list[PromptGroup]) -> list[list[Scored]]:
        """`score`, longest first, in pieces that let the progress be seen."""
        order = sorted(range(len(groups)), key=lambda i: -groups[i].num_input_tokens)
        results: list[list[Scored]] = [[] for _ in groups]
        with self.progress.bar("questions", len(groups)) as advance:
            while order:
                piece, num_tokens = list[int](), 0
                while order and (not piece or num_tokens < 4 * self.max_tokens):
                    piece.append(order.pop(0))
                    num_tokens += groups[piece[-1]].num_input_tokens
                batch = [groups[i] for i in piece]
                scores = score(self.stack, batch, max_tokens=self.max_tokens)
                for i, completions in zip(piece, scores, strict=True):
                    results[i] = completions
                advance(len(piece))
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, in disjoint windows with one token of context."""
        request_of_window, windows = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            pieces = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            for piece in pieces:
                request_of_window.append(number)
                windows.append((request.args[0], *make_disjoint_window(piece)))
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows)
        for number, (logprob, _) in zip(request_of_window, scored, strict=True):
            totals[number] += logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text after each prompt, up to the first stop string."""
        # 1) the ends of an answer: the tokenizer's end token, and those of the model's own settings
        end_text = self.tokenizer.decode(self.eot_token_id)
        known = getattr(self.stack.net.generation_config, "eos_token_id", None)
        more = known if isinstance(known, list) else [known]
        ends = tuple(dict.fromkeys([self.eot_token_id, *(i for i in more if i is not None)]))
        # 2) a prompt that leaves too little room loses tokens on the left, as in the harness
        prompts, params, stops = [], [], []
        encoded = self._encode_all([request.args[0] for request in requests])
        for request, tokens in zip(requests, encoded, strict=True):
            options = normalize_gen_kwargs(request.args[1], MAX_NEW_TOKENS)
            num = int(options["max_gen_toks"])
            room = self.max_length - num
            if room < 1:
                fault = f"max_gen_toks {num} leaves no room in a context of {self.max_length}"
                raise DataError(f"task {request.task_name}: {fault}; lower it.")
            self.num_cut += len(tokens) > room
            prompts.append(tokens[-room:])
            until = handle_stop_sequences(options.get("until"), end_text)
            stops.append(until)
            heat, top_p = _temperature(options), float(options.get("top_p", 1.0))
            params.append(SamplingParams(num, heat, top_p, ends, tuple(until)))
        # 3) the harness cuts off the stop strings, which our answers still hold
        outputs = generate(self.stack, prompts, params)
        texts = [self.tokenizer.decode(out.tokens, skip_special_tokens=True) for out in outputs]
        pairs = zip(texts, stops, strict=True)
        return [postprocess_generated_text(text, stop, None) for text, stop in pairs]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A prompt by the recipe's template, which may end in the beginning of the answer."""
        opening = add_generation_prompt
        if isinstance(self.template, HubTemplate):
            return apply_template(
                self.tokenizer,
                chat_history,
                add_generation_prompt=opening,
                continue_final_message=not opening,
            )
        messages = tuple(Message(m["role"], m["content"]) for m in chat_history)  # type: ignore[arg-type]
        # the beginning of an answer stands at the end, as the answer's prefill
        turns, prefill = (messages, "") if opening else (messages[:-1], messages[-1].content)
        tokens = self.template.prompt(turns, self.stack.tokenizer, prefill=prefill)
        return self.stack.tokenizer.decode(tokens, markers=True)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What names the template."""
        from_hub = isinstance(self.template, HubTemplate)
        return str(self.tokenizer.chat_template) if from_hub else repr(self.template)


def _trailing_space_moved(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of the context belong to the continuation's first token."""
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if context else ("", continuation)


def _temperature(options: dict[str, Any]) -> float:
    return float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0


class AskLM(LM):  # type: ignore[misc]
    """A language model that only answers, such as an endpoint: written tasks only.

    A prompt is one user message or, with the chat template, the turns of a few-shot chat.
    """

    tokenizer_name = "asked"

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self.ask = ask

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers. EndpointError when one failed: a benchmark with holes is no benchmark."""
        options = [normalize_gen_kwargs(request.args[1], MAX_NEW_TOKENS) for request in requests]
        asked = []
        for request, option in zip(requests, options, strict=True):
            heat, num = _temperature(option), int(option["max_gen_toks"])
            asked.append(Request(_messages(request.args[0]), temperature=heat, max_tokens=num))
        replies = self.ask(asked)
        errors = [reply.error for reply in replies if reply.finish == "error"]
        if errors:
            fault = f"{len(errors)} of {len(replies)} answers failed ({errors[0]})"
            raise EndpointError(f"{fault}; run again, what was answered is kept.")
        pairs = zip(replies, options, strict=True)
        return [postprocess_generated_text(r.text, o.get("until"), None) for r, o in pairs]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refuse: an answer has no log-probability of given texts."""
        fault = f"task {requests[0].task_name}: it needs the log-probability of given texts"
        raise RecipeError(f"{fault}; use a local model or a written task.")

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as JSON, which `generate_until` reads back."""
        return json.dumps({"turns": chat_history})


def _messages(prompt: str) -> tuple[Message, ...]:
    if not prompt.startswith('{"turns": '):
        return (Message("user", prompt),)
    turns = json.loads(prompt)["turns"]
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)
