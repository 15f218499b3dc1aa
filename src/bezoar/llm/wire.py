"""The chat-completions form: a request to the body that is sent, and the body that came back to a reply."""

import json
from typing import Any

from bezoar.chat.render import until
from bezoar.chat.types import Messages
from bezoar.llm.budget import Prices
from bezoar.llm.types import Reply, Request

NUM_TOP = 20
_NUM_STOPS = 4  # more are refused by several servers; the others are cut here


class BrokenReplyError(Exception):
    """A body that is no answer: cut short, not JSON, or an error in the place of an answer."""


class NoLogprobsError(Exception):
    """A request with choices was answered without log-probabilities."""


def to_body(request: Request) -> dict[str, Any]:
    """The body of a request, without the model."""
    messages = _messages(request.messages)
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
    body: dict[str, Any] = {"messages": messages, "temperature": request.temperature, "max_tokens": request.max_tokens}
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
    """Messages as the form writes them; tool calls get numbers, and tool messages answer them in order."""
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
                {"id": name, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
                for name, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            row["tool_call_id"] = waiting.pop(0) if waiting else "call_0"
        rows.append(row)
    return rows


def from_body(text: str, request: Request, prices: Prices) -> Reply:
    """The reply in a body. BrokenReplyError when there is none in it; NoLogprobsError when choices cannot be told apart by it.

    A server that does not count tokens is taken to use one for four characters.
    """
    try:
        body = json.loads(text)
        if body.get("error"):
            raise BrokenReplyError(f"the server sent an error in place of an answer: {str(body['error'])[:200]}")
        choice = body["choices"][0]
        content = _whole(choice["message"].get("content") or "")
        usage = body.get("usage") or {}
        sent = sum(len(message.content) for message in request.messages) + len(request.prefill)
        num_prompt = int(usage.get("prompt_tokens") or -(-sent // 4))
        num_completion = int(usage.get("completion_tokens") or -(-len(content) // 4))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BrokenReplyError(f"the body of the answer is broken ({type(error).__name__}, {len(text)} characters)") from None
    cost_usd = prices.cost_usd(num_prompt, num_completion)
    if choice.get("finish_reason") == "content_filter":
        return Reply(content, "error", (), num_prompt, num_completion, cost_usd, "the server's content filter cut the answer")
    logprobs = _logprobs(choice, request.choices) if request.choices else ()
    finish: Any = "length" if choice.get("finish_reason") == "length" and not request.choices else "stop"
    if not request.choices:
        content = until(content.removeprefix(request.prefill), request.stop)
    return Reply(content, finish, logprobs, num_prompt, num_completion, cost_usd)


def _whole(text: str) -> str:
    """`text` with every half of a surrogate pair, which no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _logprobs(choice: dict[str, Any], choices: tuple[str, ...]) -> tuple[float, ...]:
    """The log-probability of the first token that each choice begins with; see `match_choices`."""
    content = (choice.get("logprobs") or {}).get("content") or []
    top = content[0].get("top_logprobs") if content else None
    if not top:
        raise NoLogprobsError
    return match_choices([(str(item["token"]), float(item["logprob"])) for item in top], choices)


def match_choices(top: list[tuple[str, float]], choices: tuple[str, ...]) -> tuple[float, ...]:
    """For each choice the log-probability of the best of the tokens `top` (text, log-probability) that it begins with.

    A longer match is better, then a likelier token; spaces around both do not count. A token that fits several choices
    speaks for the one that it equals, else for none. A choice that no token fits gets the lowest log-probability seen,
    an upper bound. The result is empty where no choice is met at all, and where a choice ("10") may hide behind a token
    that equals another one ("1"), because tokenizers that write digits one by one do not tell the two apart.
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
    hidden = [n for n, found in zip(names, best, strict=True) if not found and any(n.startswith(other) for other in met)]
    if not met or hidden:
        return ()
    lowest = min(logprob for _, logprob in top)
    return tuple(found[1] if found else lowest for found in best)
