"""Calls as an API gives them, apart from the words, in the text that a Hermes model would write."""

import json
from collections.abc import Iterable

from bezoar.chat.tool_calls import CLOSE, OPEN


def written_calls(content: str, calls: Iterable[tuple[str, str]]) -> str:
    """The content and a block for each (name, arguments as JSON text), which may be broken."""
    # the arguments stay as they are: what is wrong with them is the model's fault, and is read so
    blocks = [
        f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n{CLOSE}'
        for name, arguments in calls
    ]
    return "\n".join([content, *blocks] if content else blocks)
