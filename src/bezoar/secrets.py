"""API keys: read once from the environment, and masked in every text that comes from outside.

What a server sends may hold the key that was sent to it: in an error, cut, quoted for a URL, or in
base64. `mask` is the one place that such text passes before it is stored, shown or cut.
"""

import base64
import binascii
import html
import json
import os
import re
from bisect import bisect_right
from urllib.parse import quote

from bezoar.errors import EndpointError

MASK = "***"
LEAST_PART = 8
"""A part of a key of so many characters is masked too; a shorter key is a placeholder ("EMPTY") of
which no part is."""
_BLOCK = LEAST_PART // 2
_LEAST_WHOLE = 6
_KEY_WORDS = {
    "key",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "authorization",
    "auth",
    "credential",
    "credentials",
    "signature",
    "sig",
}
_NO_KEYS = {"prompt_cache_key", "cache_key", "bos_token", "eos_token", "pad_token", "stop_token"}
_KEY_SHAPES = re.compile(
    r"(bearer\s|basic\s|sk-|hf_|gsk_|xai-|AIza|nvapi-|r8_|ghp_)", re.IGNORECASE
)

_ESCAPED = re.compile(
    r"\\u00([2-7][0-9a-f])|%([2-7][0-9a-f])|&#x([2-7][0-9a-f]);|&#(\d{2,3});|\\/", re.IGNORECASE
)

_parts: set[str] = set()
_blocks: set[str] = set()
_words: re.Pattern[str] | None = None


def read_key(name: str, place: str) -> str:
    """The key in the environment variable `name`, without white space around it.

    EndpointError names `place` and the variable, never the value, where it is not set or cannot be
    sent in a header.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise EndpointError(
            f"{place}: the environment variable {name} with the API key is not set; export it and"
            " run again."
        )
    hide(value)
    if not all(" " < character < "\x7f" for character in value):
        raise EndpointError(
            f"{place}: the API key in {name} has a space, a control character or a letter beyond"
            " ASCII in it; copy it again."
        )
    return value


def hide(value: str) -> None:
    """Mask `value` from now on, in all forms in which it may come back."""
    global _words
    if len(value) < LEAST_PART:
        if len(value) >= _LEAST_WHOLE:
            _words = re.compile(
                rf"(?<!\w){re.escape(value)}(?!\w)" + (f"|{_words.pattern}" if _words else "")
            )
        return
    raw = value.encode("utf-8", "surrogateescape")
    forms = {
        value,
        quote(value, safe="", errors="replace"),
        json.dumps(value)[1:-1],
        html.escape(value),
        raw.hex(),
        raw.hex().upper(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # a key that stands behind other bytes begins at any of three places of a group
        for shift in range(3):
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            forms.add(
                text[(0, 2, 3)[shift] : len(text) - (0 if (len(raw) + shift) % 3 == 0 else 1)]
            )
    _parts.update(
        form[i : i + LEAST_PART] for form in forms for i in range(len(form) - LEAST_PART + 1)
    )
    _blocks.update(part[i : i + _BLOCK] for part in _parts for i in range(LEAST_PART - _BLOCK + 1))


def mask(text: str) -> str:
    """`text` with `MASK` in place of every key and of every part of one that has at least
    `LEAST_PART` characters, also where some of its characters are escaped as in JSON, URLs or HTML;
    linear in the text."""
    if _words:
        text = _words.sub(MASK, text)
    if not _parts:
        return text
    found = _find(text)
    if _ESCAPED.search(text):
        found = sorted(found + _find_escaped(text))
    kept: list[str] = []
    end = 0
    for start, stop in found:
        if start > end or not kept:
            kept += [text[end:start], MASK]
        end = max(end, stop)
    return "".join([*kept, text[end:]])


def _find(text: str) -> list[tuple[int, int]]:
    """Where the parts of keys begin and end, in order."""
    return [
        # a part of 8 characters covers one whole block of 4 of the text, wherever it begins
        (start, start + LEAST_PART)
        for block in range(0, len(text) - _BLOCK + 1, _BLOCK)
        if text[block : block + _BLOCK] in _blocks
        for start in range(max(block - _BLOCK, 0), block + 1)
        if text[start : start + LEAST_PART] in _parts
    ]


def _find_escaped(text: str) -> list[tuple[int, int]]:
    """`_find` in the text without its escapes, as places in the text with them."""
    # begun: where a stretch begins without and with the escapes
    plain, begun, place = [""], [(0, 0)], 0
    for match in _ESCAPED.finditer(text):
        code = match[1] or match[2] or match[3]
        letter = (
            "/" if match[0] == "\\/" else chr(int(code, 16) if code else min(int(match[4]), 0xFFFF))
        )
        plain += [text[place : match.start()], letter]
        start, place = begun[-1][0] + match.start() - place, match.end()
        begun += [(start, match.start()), (start + 1, place)]

    def raw(position: int) -> int:
        without, within = begun[bisect_right(begun, position, key=lambda stretch: stretch[0]) - 1]
        return within + position - without

    return [(raw(start), raw(stop)) for start, stop in _find("".join([*plain, text[place:]]))]


def looks_like_key(name: str, value: object) -> bool:
    """Whether the setting `name` = `value` seems to hold a secret."""
    if not isinstance(value, str) or not value:
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    named = bool(_KEY_WORDS & {words[-1], "".join(words[-2:])}) and name.lower() not in _NO_KEYS
    return named or bool(_KEY_SHAPES.match(value)) or mask(value) != value or _has_basic(value)


def _has_basic(value: str) -> bool:
    """Whether `value` is base64 of a text that is masked, such as user:key."""
    try:
        inner = base64.b64decode(value, validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        return False
    return mask(inner) != inner
