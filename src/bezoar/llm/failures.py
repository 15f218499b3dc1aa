"""What a server's error means: it may pass, or the request or the endpoint is at fault."""

import email.utils
import json
import math
import re
import time
from typing import Any, Literal

Cause = Literal["passing", "request", "unclear", "endpoint"]
"""passing: the same request may be answered in a while. request: this one is refused, whatever the
others get. endpoint: no request can be answered until a person sees to it. unclear: a refusal that
may be the request's fault or come from a wrong setting."""
_PASSING = {408, 409, 425, 429}
_OVERLOAD = {429, 503, 529}
_FILTER = r"content.?(?:filter|policy|management)|moderat|flagged|safety"
_FILTERED = re.compile(_FILTER, re.IGNORECASE)
_ABOUT_THE_REQUEST = re.compile(
    rf"(?i){_FILTER}|context.?(length|window|size)"
    r"|maximum context|too (long|large|many tokens)|string_above_max"
    r"|prompt.{0,40}(long|exceed)|exceed.{0,40}(length|tokens|context)"
)
# said by a 400, which may quote the request: no word that a row is likely to hold
_NO_ACCESS = re.compile(
    r"(?i)insufficient.?(quota|funds|balance|credit)|credit balance|exceeded your current quota"
    r"|billing.hard.limit|(invalid|incorrect|expired).api.?key"
    r"|api.?key.{0,9}(invalid|expired|not valid)|model.?not.?found"
    r"|model .{1,80}(does not exist|not found|not loaded)"
)
_NO_FUNDS = re.compile(r"(?i)insufficient.?(quota|funds|balance|credit)")
_BILL = re.compile(r"(?i)exceeded your current quota|billing|payment required")
_RATE = re.compile(r"(?i)per.?(minute|second|min\b)|rate.?limit|(retry|try again) in")
_UNABLE = re.compile(
    "the server (answered (400|422|500|501): |sent an error in place of an answer)"
)
_BAD_REQUEST = re.compile("invalid.?request|bad.?request", re.IGNORECASE)


def cause_of(status: int, body: str) -> Cause:
    """What the HTTP status `status` (not a success) with `body` means for the request."""
    text = body[:4000]
    # 1) A lack of money or access comes under many statuses, so words go before numbers.
    if _lacks_funds(status, text) or (status == 400 and _NO_ACCESS.search(text[:500])):
        return "endpoint"
    # 2) No waiting makes one request smaller than a minute's limit; what is left passes by itself.
    if status == 429 and "request too large" in text.lower():
        return "request"
    if status in _PASSING or status >= 500:
        return "passing"
    # 3) Clear faults of one request need no proof that others are answered.
    if status in (413, 451) or (status in (400, 403, 422) and _ABOUT_THE_REQUEST.search(text)):
        return "request"
    return "unclear" if status in (400, 422) else "endpoint"


def _lacks_funds(status: int, text: str) -> bool:
    """Whether the account has to be paid for; a limit a minute may be told in words that name the
    bill too."""
    if status == 402 or status not in (403, 429) or _NO_FUNDS.search(text):
        return status in (402, 403, 429)
    return bool(_BILL.search(text)) and not (status == 429 and _RATE.search(text))


def is_unable(error: str) -> bool:
    """Whether a reply's error says that the server cannot do what was asked, now or later."""
    return bool(_UNABLE.match(error))


def refusal_of(said: str) -> Literal["refused", "filtered"]:
    """Whether the server refuses a request, or its content filter does."""
    return "filtered" if _FILTERED.search(said) else "refused"


def is_overload(status: int) -> bool:
    """Whether the server says that it, or the account, has enough for now."""
    return status in _OVERLOAD


def error_inside(body: Any) -> Any:
    """The error in the decoded body of a 200, in one of the forms that servers use; else None."""
    body = body[0] if isinstance(body, list) and body else body
    if not isinstance(body, dict):
        return None
    if body.get("error") or body.get("object") == "error":
        return body.get("error") or body
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and choice.get("finish_reason") == "error":
        return choice.get("error")
    return None


def status_inside(body: str) -> int | None:
    """The HTTP status that an error inside the body of a 200 names, if it does."""
    try:
        error = error_inside(json.loads(body))
    except (ValueError, RecursionError):
        return None
    if not isinstance(error, dict):
        return None
    for value in (error.get("code"), error.get("status")):
        if isinstance(value, str) and re.fullmatch(r"[1-5]\d\d", value):
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    kind = f"{error.get('code')} {error.get('type')}"
    return 400 if _ABOUT_THE_REQUEST.search(kind) or _BAD_REQUEST.search(kind) else None


def retry_after_s(header: str) -> float:
    """The seconds that a Retry-After header, a number or a date, asks for; else 0."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
