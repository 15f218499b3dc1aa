"""API keys: read once from the environment, and masked in every text that comes from outside.

What a server sends may hold the key that was sent to it: in an error, cut, quoted for a URL, or in
base64. Such text passes `mask` before it is stored, shown or cut.
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
"""A part of a key with so many characters is masked too; a shorter key ("EMPTY") is a placeholder,
of which only the whole is."""
_BLOCK = LEAST_PART // 2
_LEAST_WHOLE = 6
_KEY_WORDS = {
    *("key", "apikey", "token", "secret", "password", "passwd", "authorization", "auth"),
    *("credential", "credentials", "signature", "sig"),
}
_NO_KEYS = {"prompt_cache_key", "cache_key", "bos_token", "eos_token", "pad_token", "stop_token"}
_KEY_SHAPES = re.compile(r"(?i)(bearer\s|basic\s|sk-|hf_|gsk_|xai-|AIza|nvapi-|r8_|ghp_)")
_ESCAPED = re.compile(
    r"\\u00([2-7][0-9a-f])|%([2-7][0-9a-f])|&#x([2-7][0-9a-f]);|&#(\d{2,3});|\\/", re.IGNORECASE
)

_parts: set[str] = set()
_blocks: set[str] = set()
_words: re.Pattern[str] | None = None


def read_key(name: str, place: str) -> str:
    """The key in the environment variable `name`, without white space around it. EndpointError,
    which never holds the value, if it is not set or cannot be sent in a header."""
    value = os.environ.get(name, "").strip()
    if not value:
        what = f"the environment variable {name} with the API key is not set"
        raise EndpointError(f"{place}: {what}; export it and run again.")
    # before anything can fail: the message of a later error may quote it
    hide(value)
    if not all(" " < character < "\x7f" for character in value):
        what = "has a space, a control character or a letter beyond ASCII in it"
        raise EndpointError(f"{place}: the API key in {name} {what}; copy it again.")
    return value


def hide(value: str) -> None:
    """Mask `value` from now on, in all forms in which it may come back."""
    global _words
    if len(value) < LEAST_PART:
        if len(value) >= _LEAST_WHOLE:
            others = f"|{_words.pattern}" if _words else ""
            _words = re.compile(rf"(?<!\w){re.escape(value)}(?!\w){others}")
        return
    raw = value.encode("utf-8", "surrogateescape")
    # 1) The key as it is, and as URLs, JSON, HTML and hexadecimal digits write it.
    quoted = quote(value, safe="", errors="replace")
    forms = {value, quoted, json.dumps(value)[1:-1], html.escape(value)}
    forms |= {raw.hex(), raw.hex().upper()}
    # 2) In base64 of a longer text the key begins at any of three places of a group; the letters at
    #    both ends depend on its neighbours, so they are left out.
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            end = len(text) - (0 if (len(raw) + shift) % 3 == 0 else 1)
            forms.add(text[(0, 2, 3)[shift] : end])
    # 3) All parts of these, and the blocks by which `_find` knows where to look for a part.
    for form in forms:
        _parts.update(form[i : i + LEAST_PART] for i in range(len(form) - LEAST_PART + 1))
    _blocks.update(part[i : i + _BLOCK] for part in _parts for i in range(LEAST_PART - _BLOCK + 1))


def mask(text: str) -> str:
    """`text` with `MASK` in place of every key and every part of one with at least `LEAST_PART`
    characters, also if some are escaped as in JSON, URLs or HTML; linear in the text."""
    if _words:
        text = _words.sub(MASK, text)
    if not _parts:
        return text
    spans = _find(text)
    if _ESCAPED.search(text):
        spans = sorted(spans + _find_escaped(text))
    pieces: list[str] = []
    masked_to = 0
    for start, stop in spans:
        if start > masked_to or not pieces:
            pieces += [text[masked_to:start], MASK]
        masked_to = max(masked_to, stop)
    return "".join([*pieces, text[masked_to:]])


def _find(text: str) -> list[tuple[int, int]]:
    # a part of 8 characters covers one whole block of 4 of the text, wherever it begins
    return [
        (start, start + LEAST_PART)
        for block in range(0, len(text) - _BLOCK + 1, _BLOCK)
        if text[block : block + _BLOCK] in _blocks
        for start in range(max(block - _BLOCK, 0), block + 1)
        if text[start : start + LEAST_PART] in _parts
    ]


def _find_escaped(text: str) -> list[tuple[int, int]]:
    """`_find` in the text without its escapes, as positions in the text with them."""
    # pieces of the text without escapes, and where each begins without and with them
    pieces, starts, position = [""], [(0, 0)], 0
    for match in _ESCAPED.finditer(text):
        code = match[1] or match[2] or match[3]
        number = int(code, 16) if code else min(int(match[4] or 0), 0xFFFF)
        letter = "/" if match[0] == "\\/" else chr(number)
        pieces += [text[position : match.start()], letter]
        plain_start = starts[-1][0] + match.start() - position
        position = match.end()
        starts += [(plain_start, match.start()), (plain_start + 1, position)]

    def raw(position: int) -> int:
        piece = bisect_right(starts, position, key=lambda start: start[0]) - 1
        plain_start, raw_start = starts[piece]
        return raw_start + position - plain_start

    plain = "".join([*pieces, text[position:]])
    return [(raw(start), raw(stop)) for start, stop in _find(plain)]


def looks_like_key(name: str, value: object) -> bool:
    """Whether the setting `name` = `value` seems to hold a secret."""
    if not isinstance(value, str) or not value:
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    is_named = bool(_KEY_WORDS & {words[-1], "".join(words[-2:])}) and name.lower() not in _NO_KEYS
    return is_named or bool(_KEY_SHAPES.match(value)) or _holds_key(value)


def _holds_key(value: str) -> bool:
    """Whether `value`, or what it says in base64 (user:key), is masked."""
    try:
        decoded = base64.b64decode(value, validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        decoded = ""
    return mask(value) != value or mask(decoded) != decoded
