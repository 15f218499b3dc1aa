"""The chat-completions form: a request to the body that is sent, and the body that came back to a
reply."""

import json
import math
from typing import Any

from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.types import Messages
from bezoar.llm.budget import Prices
from bezoar.llm.failures import error_inside
from bezoar.llm.types import Failure, Reply, Request
from bezoar.secrets import mask

NUM_TOP = 20
NO_LOGPROBS = "the server gives no log-probabilities"
"""The `error` of a reply to a request with choices that cannot be read by them."""
NO_CHOICE = "the answer holds no choice"
"""The `error` of a reply without any answer in it: worth another attempt, and unreadable when that
does not help."""
_NUM_STOPS = 4  # more are refused by several servers; the others are cut here
_MOST_TOKENS = 10**9


def to_body(request: Request) -> dict[str, Any]:
    """The body of a request, without the model."""
    messages = _messages(request.messages)
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
    body: dict[str, Any] = {
        "messages": messages,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }
    if request.choices:
        return {**body, "max_tokens": 1, "logprobs": True, "top_logprobs": NUM_TOP}
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.temperature > 0:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop[:_NUM_STOPS])
    return body


def _messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages as the form writes them; tool calls get numbers, and tool messages answer them in
    order."""
    rows: list[dict[str, Any]] = []
    waiting: list[str] = []
    num_calls = 0
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            ids = [f"call_{num_calls + i}" for i in range(len(message.tool_calls))]
            num_calls += len(ids)
            waiting += ids
            row["tool_calls"] = [
                {
                    "id": name,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for name, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            row["tool_call_id"] = waiting.pop(0) if waiting else "call_0"
        rows.append(row)
    return rows


class _UnreadableError(Exception):
    """A whole body in which no answer can be found, although the server took the request for
    answered."""


def from_body(text: str, request: Request, prices: Prices) -> Reply:
    """The reply in the body of a 200; never an exception.

    A body that is cut short, is not JSON or holds an error is a passing failure; its tokens count
    as paid where the server does not say otherwise. A whole body in which no text is found is
    final: "refused" where the model or a content filter declined, else "unreadable". A server that
    does not count tokens, or counts them in a way that cannot be, is taken to use one for four
    characters.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError:
        return _failed(
            f"the body of the answer is broken or cut short ({len(text)} characters)",
            "passing",
            {},
            text,
            request,
            prices,
        )
    except (ValueError, RecursionError):
        return _failed(
            "the body of the answer is nested too deeply or holds a number that is too long",
            "unreadable",
            {},
            text,
            request,
            prices,
        )
    error = error_inside(body)
    if error:
        said = f"the server sent an error in place of an answer: {mask(str(error))[:200]}"
        return Reply(finish="error", error=said, failure="passing")
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("choices"), list)
        or not body["choices"]
    ):
        return _failed(NO_CHOICE, "unreadable", body, "", request, prices)
    try:
        choice = body["choices"][0]
        # again: what was escaped, or in parts, is whole now
        content, refusal = map(mask, _content(choice))
    except _UnreadableError as unreadable:
        return _failed(str(unreadable), "unreadable", body, text, request, prices)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as fault:
        return _failed(
            f"the answer has no message that can be read ({type(fault).__name__})",
            "unreadable",
            body,
            text,
            request,
            prices,
        )
    if refusal:
        return _failed(refusal, "refused", body, content, request, prices)
    num_prompt, num_completion = _tokens(body, request, content)
    cost_usd = prices.cost_usd(num_prompt, num_completion)
    if request.choices:
        logprobs = _logprobs(choice, request.choices)
        if logprobs is None:
            return _failed(NO_LOGPROBS, "passing", body, content, request, prices)
        return Reply(content, "stop", logprobs, num_prompt, num_completion, cost_usd)
    content = cut_at_stop(content.removeprefix(request.prefill), request.stop)
    finish: Any = "length" if choice.get("finish_reason") in ("length", "max_tokens") else "stop"
    return Reply(content, finish, (), num_prompt, num_completion, cost_usd)


def _content(choice: dict[str, Any]) -> tuple[str, str]:
    """(the text of a choice, why the model or the server declined or "")."""
    message = choice["message"]
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        parts = [
            part if isinstance(part, dict) else {"type": "text", "text": part} for part in content
        ]
        refusal = refusal or "".join(
            str(p["refusal"]) for p in parts if p.get("type") == "refusal" and p.get("refusal")
        )
        texts = [p.get("text") for p in parts if p.get("type") in ("text", "output_text")]
        if not texts and parts and not refusal:
            raise _UnreadableError("the answer has no part of type text")
        content = "".join(texts)  # type: ignore[arg-type]
    if choice.get("finish_reason") == "content_filter":
        return _whole(content or ""), "the server's content filter cut the answer"
    if refusal and not content:
        return "", f"the model refused: {_whole(str(refusal))[:200]}"
    if not content and message.get("tool_calls"):
        raise _UnreadableError("the model called a tool in place of an answer")
    if content is not None and not isinstance(content, str):
        raise _UnreadableError(
            f"the content of the answer is of type {type(content).__name__}, not text"
        )
    return _whole(content or ""), ""


def _failed(
    why: str, failure: Failure, body: Any, content: str, request: Request, prices: Prices
) -> Reply:
    """A failure that counts as paid: by the server's usage, else by the characters of what was sent
    and of `content`."""
    num_prompt, num_completion = _tokens(body if isinstance(body, dict) else {}, request, content)
    return Reply(
        "",
        "error",
        (),
        num_prompt,
        num_completion,
        prices.cost_usd(num_prompt, num_completion),
        why,
        failure,
    )


def _tokens(body: dict[str, Any], request: Request, content: str) -> tuple[int, int]:
    """(prompt tokens, answer tokens) as the server counts them, else one for four characters."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    sent = sum(len(message.content) for message in request.messages) + len(request.prefill)
    return (
        _count(usage.get("prompt_tokens"), -(-sent // 4)),
        _count(usage.get("completion_tokens"), -(-len(content) // 4)),
    )


def _count(value: Any, otherwise: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return otherwise
    return int(value) if value == int(value) and 0 < value < _MOST_TOKENS else otherwise


def _whole(text: str) -> str:
    """`text` with every half of a surrogate pair, which no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _logprobs(choice: dict[str, Any], choices: tuple[str, ...]) -> tuple[float, ...] | None:
    """The log-probability of the first token that each choice begins with (see `match_choices`);
    None where none are given."""
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(str(item["token"]), float(item["logprob"])) for item in top]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return (
        match_choices(pairs, choices)
        if pairs and not any(math.isnan(value) for _, value in pairs)
        else None
    )


def match_choices(top: list[tuple[str, float]], choices: tuple[str, ...]) -> tuple[float, ...]:
    """For each choice the log-probability of the best of the tokens `top` (text, log-probability)
    that it begins with.

    A longer match is better, then a likelier token; spaces around both do not count. A token that
    fits several choices speaks for the one that it equals, else for none. A choice that no token
    fits gets the lowest log-probability seen, an upper bound. The result is empty where no choice
    is met at all, and where a choice ("10") may hide behind a token that equals another one ("1"),
    because tokenizers that write digits one by one do not tell the two apart.
    """
    names = [choice.strip() for choice in choices]
    best: list[tuple[int, float] | None] = [None] * len(names)
    for text, logprob in top:
        token = text.strip()
        fits = [i for i, name in enumerate(names) if token and name.startswith(token)]
        equal = [i for i in fits if names[i] == token]
        for index in equal or (fits if len(fits) == 1 else []):
            found = (len(token), logprob)
            best[index] = max(best[index] or found, found)
    met = {name for name, found in zip(names, best, strict=True) if found}
    hidden = [
        n
        for n, found in zip(names, best, strict=True)
        if not found and any(n.startswith(other) for other in met)
    ]
    if not met or hidden:
        return ()
    lowest = min(logprob for _, logprob in top)
    return tuple(found[1] if found else lowest for found in best)
