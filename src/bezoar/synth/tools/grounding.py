"""Whether the values of a call stand in the words of the user."""

import re
from typing import Any

from bezoar.synth.tools.values import COUNT_WORDS

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def ungrounded(value: Any, text: str, schema: dict[str, Any]) -> str:
    """The first value, as text, that `text` does not say; "" if it says all.

    Switches and choices of an enum may be said in any words. A number may stand as a word or, if it
    is below 1, in percent; a date or time in another form.
    """
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        found = (ungrounded(item, text, inner.get(key, {})) for key, item in value.items())
        return next((fault for fault in found if fault), "")
    if isinstance(value, list):
        found = (ungrounded(item, text, schema.get("items", {})) for item in value)
        return next((fault for fault in found if fault), "")
    # "with a dog" is pets: true, and nothing in the words shows it
    if isinstance(value, bool) or "enum" in schema:
        return ""
    if isinstance(value, int | float):
        return "" if _says_number(value, text) else str(value)
    return "" if _says(str(value), text) else str(value)


def _says_number(value: float, text: str) -> bool:
    numbers = [float(number.replace(",", "")) for number in _NUMBER.findall(text)]
    numbers += [n for n, word in COUNT_WORDS.items() if re.search(rf"\b{word}\b", text.lower())]
    if any(abs(abs(value) - number) < 1e-9 for number in numbers):
        return True
    in_percent = "%" in text or "percent" in text.lower()
    return in_percent and any(abs(value * 100 - number) < 1e-6 for number in numbers)


def _says(value: str, text: str) -> bool:
    if _plain(value) in _plain(text):
        return bool(_plain(value)) or not value
    if date := re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", value):
        month = _MONTHS[(int(date[2]) - 1) % 12]
        return _says_number(int(date[3]), text) and month in text.lower()
    if time := re.fullmatch(r"(\d\d):(\d\d)(?::00)?", value):
        hour, minute = int(time[1]), int(time[2])
        # 18:00 is 6 pm, and 18:30 is 6:30 pm
        said = [f"{h}:{minute:02}" if minute else f"{h}" for h in {hour, (hour - 1) % 12 + 1}]
        return any(re.search(rf"(?<!\d){number}(?!\d)", text) for number in said)
    return False


def _plain(text: str) -> str:
    # hyphens, quotes and cases differ between a request and its values
    return "".join(c for c in text.lower() if c.isalnum())
