"""The forms that judges are held to while they write (`verdict: structured`), so that every verdict
can be read."""

from collections.abc import Mapping
from typing import Any, Literal

from bezoar.model.structured_output import StructuredOutput

Way = Literal["text", "structured", "logprob"]
"""How a judge says its verdict."""
NOT_OF_FORM = "not of the form that was asked for"
"""Of a reply that was cut off before its verdict, for want of room in the context."""
# ASCII, of which no character takes more than a token, and no brackets, which mark verdicts
_REASON = r"[ -Z\\^-~]"


def reason_then(verdict: str, longest: str, max_tokens: int) -> StructuredOutput:
    """A line of reasons, or none, and a last line that matches `verdict`, of which `longest` is the
    longest text: all of it fits into `max_tokens`."""
    most = max_tokens - len(longest) - 1
    reasons = rf"({_REASON}{{1,{most}}}\n)?" if most > 0 else ""
    return StructuredOutput(regex=reasons + verdict)


def said_of(verdict: str) -> Mapping[str, Any]:
    """What conditions say of verdicts that were held to a form; nothing of others."""
    return {"held to a form": True} if verdict == "structured" else {}
