"""The chat-completions format: from a request to a body, from a body to a reply."""

import json
import math
from typing import Any

from bezoar.chat.api_calls import written_calls
from bezoar.chat.messages import offered
from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.tool_calls import whole_text
from bezoar.chat.types import Messages
from bezoar.llm.begun import FLAGS, Way
from bezoar.llm.budget import Prices
from bezoar.llm.failures import error_inside
from bezoar.llm.types import Failure, Reply, Request
from bezoar.secrets import mask

NUM_TOP = 20
NO_LOGPROBS = "the server gives no log-probabilities"
"""The `error` of a reply to a request with choices that cannot be read by them."""
NO_CHOICE = "the answer holds no choice"
"""The `error` of a reply without any answer in it: worth another attempt, then unreadable."""
_NUM_STOPS = 4  # several servers refuse more; the others are cut here
_MOST_TOKENS = 10**9
_SHOWN = 400  # characters of an answer that cannot be used


def to_body(request: Request, way: Way = "turn") -> dict[str, Any]:
    """The body of a request, without the model; `way` is how its answer is begun."""
    messages = _messages(request.messages)
    if request.prefill and way != "words":
        messages.append({"role": "assistant", "content": request.prefill})
    elif request.prefill:
        told = f"Begin your answer with exactly this text: {request.prefill}"
        messages.append({"role": "user", "content": told})
    body: dict[str, Any] = {"messages": messages, "temperature": request.temperature}
    if tools := offered(request.messages):
        body["tools"] = [tool.to_json() for tool in tools]
    body["max_tokens"] = request.max_tokens
    if way == "flags" and messages[-1]["role"] == "assistant":
        body |= FLAGS
    if request.choices:
        # one token is enough, as choices are told apart by its probabilities, but for one that
        # stands behind words which the model has to write first
        num_tokens = 1 + (len(request.prefill) if way == "words" else 0)
        return {**body, "max_tokens": num_tokens, "logprobs": True, "top_logprobs": NUM_TOP}
    # what changes nothing is not sent, such as a seed without sampling: a server may refuse it
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    # not OpenAI's, but known to vLLM and llama.cpp
    if request.top_k:
        body["top_k"] = request.top_k
    if request.temperature > 0:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop[:_NUM_STOPS])
    return body


def _messages(messages: Messages) -> list[dict[str, Any]]:
    """Tool calls get ids in order, and tool messages answer them in the same order."""
    rows: list[dict[str, Any]] = []
    unanswered: list[str] = []
    num_calls = 0
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        calls = []
        for call in message.tool_calls:
            function = {"name": call.name, "arguments": json.dumps(call.arguments)}
            calls.append({"id": f"call_{num_calls}", "type": "function", "function": function})
            unanswered.append(f"call_{num_calls}")
            num_calls += 1
        if calls:
            row["tool_calls"] = calls
        if message.role == "tool":
            row["tool_call_id"] = unanswered.pop(0) if unanswered else "call_0"
        # a message that is there for its tools alone says nothing
        if message.content or not message.tools:
            rows.append(row)
    return rows


class _NoAnswerError(Exception):
    """Why the body of a 200 holds no answer. `text` was paid for; None is the whole body."""

    def __init__(self, why: str, text: str | None = None, failure: Failure = "malformed") -> None:
        super().__init__(why)
        self.text, self.failure = text, failure


def from_body(text: str, request: Request, prices: Prices, way: Way = "turn") -> Reply:
    """The reply in the body of a 200 to what `to_body` made; never an exception.

    A body that is cut short, is not JSON or holds an error is a passing failure; its tokens count
    as paid unless the server says otherwise. A whole body without text is final: "refused" if the
    model declined, "filtered" if a content filter cut it, else "malformed".
    """
    body: Any = None
    try:
        body = _parse(text)
        # several servers and gateways send errors with status 200
        server_error = error_inside(body)
        if server_error:
            why = f"the server sent an error in place of an answer: {mask(str(server_error))[:200]}"
            return Reply(finish="error", error=why, failure="passing")
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or not choices:
            raise _NoAnswerError(NO_CHOICE, "")
        choice = choices[0]
        # masked again: what was escaped, or in parts, is whole now
        content = mask(_content(choice, with_calls=bool(offered(request.messages))))
        logprobs = _logprobs(choice, request) if request.choices else ()
        if logprobs is None:
            raise _NoAnswerError(NO_LOGPROBS, content, "passing")
        if way == "words" and request.prefill not in content and not request.choices:
            why = f"the answer does not hold {request.prefill!r:.60}: {content[:_SHOWN]}"
            raise _NoAnswerError(why, content)
    except _NoAnswerError as error:
        costs = _costs(body, request, text if error.text is None else error.text, prices)
        return Reply("", "error", (), *costs, str(error), error.failure)
    costs = _costs(body, request, content, prices)
    if request.choices:
        return Reply(content, "stop", logprobs, *costs)
    # words before a beginning that was asked for are no part of the answer
    begun = content.find(request.prefill) if way == "words" else 0
    content = cut_at_stop(content[begun:].removeprefix(request.prefill), request.stop)
    is_cut = choice.get("finish_reason") in ("length", "max_tokens")
    return Reply(content, "length" if is_cut else "stop", (), *costs)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        why = f"the body of the answer is broken or cut short ({len(text)} characters)"
        raise _NoAnswerError(why, failure="passing") from None
    except (ValueError, RecursionError):
        why = "the body of the answer is nested too deeply or holds a number that is too long"
        raise _NoAnswerError(why) from None


def _content(choice: Any, *, with_calls: bool) -> str:
    """The text of a choice, its calls as text `with_calls`. _NoAnswerError if there is none, or it
    was declined."""
    try:
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        if isinstance(content, list):
            content, refusal = _join(content, refusal)
        # a declined answer is final: asked again it is declined again, and may be paid again
        if choice.get("finish_reason") == "content_filter":
            why, partial = "the server's content filter cut the answer", mask(_whole(content or ""))
            raise _NoAnswerError(why, partial, "filtered")
        if refusal and not content:
            why = mask(f"the model refused: {_whole(str(refusal))[:200]}")
            raise _NoAnswerError(why, "", "refused")
        calls = message.get("tool_calls")
        # an empty text that is none would else pass for an answer of nothing
        if not content and calls and not with_calls:
            raise _NoAnswerError("the model called a tool in place of an answer")
        if content is not None and not isinstance(content, str):
            kind = type(content).__name__
            raise _NoAnswerError(f"the content of the answer is of type {kind}, not text")
        # as one text, the form in which a local model would have written them
        if calls and with_calls:
            functions = [call["function"] for call in calls]
            pairs = [(str(f["name"]), str(f["arguments"])) for f in functions]
            content = written_calls(content or "", pairs)
        return _whole(content or "")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        why = f"the answer has no message that can be read ({type(error).__name__})"
        raise _NoAnswerError(why) from None


def _join(content: list[Any], refusal: Any) -> tuple[str, Any]:
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    refusals = [part.get("refusal") for part in parts if part.get("type") == "refusal"]
    texts = [part.get("text") for part in parts if part.get("type") in ("text", "output_text")]
    refusal = refusal or "".join(str(reason) for reason in refusals if reason)
    if parts and not texts and not refusal:
        raise _NoAnswerError("the answer has no part of type text")
    return "".join(texts), refusal  # type: ignore[arg-type]


def _costs(body: Any, request: Request, content: str, prices: Prices) -> tuple[int, int, float]:
    """(prompt tokens, answer tokens, US dollars); 4 characters a token if not counted."""
    # a wrong count would make the budget wrong, in either direction
    usage = body.get("usage") if isinstance(body, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    # servers write the declarations into the prompt, and count them
    num_sent = sum(len(whole_text(message)) for message in request.messages) + len(request.prefill)
    num_prompt = _count(usage.get("prompt_tokens"), -(-num_sent // 4))
    num_completion = _count(usage.get("completion_tokens"), -(-len(content) // 4))
    return num_prompt, num_completion, prices.cost_usd(num_prompt, num_completion)


def _count(value: Any, default: int) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_count = is_number and 0 < value < _MOST_TOKENS and value == int(value)
    return int(value) if is_count else default


def _whole(text: str) -> str:
    """`text` with every half of a surrogate pair, which no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _logprobs(choice: dict[str, Any], request: Request) -> tuple[float, ...] | None:
    """`match_choices` of the log-probabilities of the first token, or of the one behind `prefill`
    where the model wrote that itself; None if the server gives none."""
    try:
        tokens = choice["logprobs"]["content"]
        first, text = tokens[0], ""
        for token in tokens if request.prefill else ():
            if text.strip() == request.prefill.strip():
                first = token
                break
            text += token["token"]
        pairs = [(str(item["token"]), float(item["logprob"])) for item in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if not pairs or any(math.isnan(value) for _, value in pairs):
        return None
    return match_choices(pairs, request.choices)


def match_choices(top: list[tuple[str, float]], choices: tuple[str, ...]) -> tuple[float, ...]:
    """For each choice the log-probability of the best token of `top` (text, log-probability) that
    it begins with, a longer match first, then a likelier token; spaces around both do not count.

    Empty if no choice is met, and if a choice ("10") may hide behind a token that equals another
    one ("1"): tokenizers that write digits one by one do not tell the two apart.
    """
    names = [choice.strip() for choice in choices]
    best: list[tuple[int, float] | None] = [None] * len(names)
    # 1) A token that fits several choices counts for the one that it equals, else for none.
    for text, logprob in top:
        token = text.strip()
        fits = [i for i, name in enumerate(names) if token and name.startswith(token)]
        equal = [i for i in fits if names[i] == token]
        for index in equal or (fits if len(fits) == 1 else []):
            match = (len(token), logprob)
            best[index] = max(best[index] or match, match)
    # 2) Without a match, or with one that could mean two choices, nothing can be told.
    met = [name for name, match in zip(names, best, strict=True) if match]
    unmet = [name for name, match in zip(names, best, strict=True) if not match]
    if not met or any(name.startswith(other) for name in unmet for other in met):
        return ()
    # 3) A choice that no token fits gets the lowest log-probability seen, an upper bound.
    lowest = min(logprob for _, logprob in top)
    return tuple(match[1] if match else lowest for match in best)
