"""What a server's refusal means: that it may pass, that the request is at fault, or that the
endpoint is."""

import email.utils
import json
import math
import re
import time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bezoar.llm.endpoint import Endpoint

Meaning = Literal["passing", "request", "unclear", "endpoint"]
"""passing: the same request may be answered in a while. request: this one is refused, whatever the
others get. endpoint: no request can be answered until a person sees to it. unclear: a refusal that
may be the request's or come from a wrong setting."""
_PASSING = {408, 409, 425, 429}
_ABOUT_THE_REQUEST = re.compile(
    r"content.?(filter|policy|management)|moderat|flagged|safety|context.?(length|window|size)|maximum"
    r" context|too (long|large|many tokens)|"
    r"string_above_max|prompt.{0,40}(long|exceed)|exceed.{0,40}(length|tokens|context)",
    re.IGNORECASE,
)
# said by a 400, which may quote the request: no word that a row is likely to hold
_NO_ACCESS = re.compile(
    r"insufficient.?(quota|funds|balance|credit)|credit balance|exceeded your current"
    r" quota|billing.hard.limit|(invalid|incorrect|expired).api.?key|"
    r"api.?key.{0,9}(invalid|expired|not valid)|model.?not.?found|model .{1,80}(does not exist|not"
    r" found|not loaded)",
    re.IGNORECASE,
)
_NO_FUNDS = re.compile(
    r"insufficient.?(quota|funds|balance|credit)|exceeded your current quota|billing|payment"
    r" required",
    re.IGNORECASE,
)


def meaning(status: int, body: str) -> Meaning:
    """What the HTTP status `status` (not a success) with `body` means for the request."""
    said = body[:4000]
    if (
        status == 402
        or (status in (403, 429) and _NO_FUNDS.search(said))
        or (status == 400 and _NO_ACCESS.search(said[:500]))
    ):
        return "endpoint"
    if status in _PASSING or status >= 500:
        return "passing"
    if status in (413, 451) or (status in (400, 403, 422) and _ABOUT_THE_REQUEST.search(said)):
        return "request"
    return "unclear" if status in (400, 422) else "endpoint"


def error_inside(body: Any) -> Any:
    """The error in the decoded body of a 200, in one of the forms in which servers write it; else
    nothing."""
    body = body[0] if isinstance(body, list) and body else body
    if not isinstance(body, dict):
        return None
    if body.get("error") or body.get("object") == "error":
        return body.get("error") or body
    choice = (
        body["choices"][0] if isinstance(body.get("choices"), list) and body["choices"] else None
    )
    return (
        choice.get("error")
        if isinstance(choice, dict) and choice.get("finish_reason") == "error"
        else None
    )


def status_inside(body: str) -> int | None:
    """The HTTP status that an error inside the body of a 200 names, if it does."""
    try:
        error = error_inside(json.loads(body))
    except (ValueError, RecursionError):
        return None
    if not isinstance(error, dict):
        return None
    for value in (error.get("code"), error.get("status")):
        number = (
            int(value) if isinstance(value, str) and re.fullmatch(r"[1-5]\d\d", value) else value
        )
        if isinstance(number, int) and not isinstance(number, bool) and 400 <= number < 600:
            return number
    kind = f"{error.get('code')} {error.get('type')}"
    return (
        400
        if _ABOUT_THE_REQUEST.search(kind)
        or re.search("invalid.?request|bad.?request", kind, re.IGNORECASE)
        else None
    )


def retry_after_s(value: str) -> float:
    """The seconds that a Retry-After header asks for, which holds a number or a date; 0 where it
    says nothing sensible."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def advice(endpoint: "Endpoint", status: int, said: str) -> str:
    """What a person can do about a failure that is the endpoint's; `status` 0 is a connection that
    nobody accepts."""
    go_on = "then run the same command to go on."
    if not status:
        what = (
            "start the server or correct the url"
            if "refused" in said
            else "correct the url or the network"
        )
        return f"{endpoint.url}: {said}; {what}, {go_on}"
    key = f"the key in {endpoint.key_env}" if endpoint.key_env else "key_env, which is empty"
    known = {
        401: f"the server refuses access (401: {said}); check {key}, {go_on}",
        403: f"the server refuses access (403: {said}); check {key}, {go_on}",
        402: (
            f"the server wants to be paid first (402: {said}); see to the account behind {key},"
            f" {go_on}"
        ),
        429: (
            f"the account has no funds left (429: {said}); see to the account behind {key}, {go_on}"
        ),
        404: (
            f"not found (404: {said}); check the url, which often ends in /v1, and the model"
            f" {endpoint.model}, {go_on}"
        ),
    }
    return f"{endpoint.url}: " + known.get(
        status, f"the server answered {status}: {said}; check the url and the server, {go_on}"
    )


def dead(endpoint: "Endpoint", num: int, why: str) -> str:
    """What a person can do about an endpoint that has failed `num` requests in a row."""
    return (
        f"{endpoint.url}: {num} requests in a row failed, the last one because {why}; see to the"
        " server and run the same command to go on."
    )


def none_answered(endpoint: "Endpoint", num: int, why: str) -> str:
    """What a person can do about an endpoint that has refused `num` requests and answered none."""
    what = f"{num} requests were refused and none was answered; the last one because {why}"
    return (
        f"{endpoint.url}: {what}; correct the model, the extra settings or the server and run the"
        " same command to go on."
    )
