"""Which rows are held out of training: by their conversation, whatever else the file holds."""

import hashlib

from bezoar.chat.types import Chat, Comparison
from bezoar.data.near_duplicates import words

_SALT = b"held out\0"


def is_held_out(item: Chat | Comparison, share: float) -> bool:
    """Whether a row belongs to the held-out `share` (0 to 1) of all conversations.

    The hash of the first user message decides, without its case, punctuation and white space:
    answers to one prompt, later turns of one conversation and the row in another file or order
    are all on one side, and what is held out at 0.1 is held out at 0.2 as well.
    """
    digest = hashlib.blake2b(_SALT + _conversation(item), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * (1 << 64)


def _conversation(item: Chat | Comparison) -> bytes:
    asked = next((m.content for m in item.prompt if m.role == "user"), "")
    return (" ".join(words(asked)) or asked.strip()).encode("utf-8", "replace")
