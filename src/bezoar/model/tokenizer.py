"""A model folder's tokenizer. What only networks need, which takes seconds, is not loaded."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from bezoar.chat.added_tokens import with_tokens
from bezoar.chat.sentencepiece_file import from_file
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError
from bezoar.io import read_object
from bezoar.model import resolve
from bezoar.model.resolve import reason

_NUM_WORDS = 1000
_PIECES = "tokenizer.model"


def load_tokenizer(path: str, add_tokens: Sequence[str] = ()) -> HubTokenizer:
    """The tokenizer of a model, as `read_tokenizer` reads it."""
    return read_tokenizer(resolve.resolve_model(path), add_tokens)


def read_tokenizer(folder: Path, add_tokens: Sequence[str] = ()) -> HubTokenizer:
    """The tokenizer in a model's folder, with the tokens `add_tokens` added to it.

    DataError names the file that makes it unusable.
    """
    from transformers import AutoTokenizer

    resolve.silence_libraries()
    config = resolve.read_config(folder)
    try:
        inner = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if (folder / _PIECES).is_file() and not (folder / "tokenizer.json").is_file():
            inner = from_file(folder / _PIECES, inner)
        special = set(inner.all_special_ids)
        # its own words too, because its vocabulary may lack ours
        words = inner.decode(sorted(set(inner.get_vocab().values()) - special)[:_NUM_WORDS])
        text = f"Hello, world. {words}"
        ids = inner.encode(text, add_special_tokens=False, split_special_tokens=True)
        inner.decode(ids, skip_special_tokens=True)
    # the tokenizers library panics with an error type that is no Exception
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, DataError)):
            raise
        raise _tokenizer_fault(folder, error) from None
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not set(ids) - special:
        raise DataError(f"{file}: the tokenizer has no vocabulary; save it into the folder.")
    if inner.eos_token_id is None:
        raise DataError(f"{settings}: the tokenizer names no end token; set eos_token there.")
    template = inner.chat_template
    if not isinstance(template, (str, dict, type(None))):
        raise DataError(f"{settings}: chat_template is {template!r:.60}, not text; mend the file.")
    if add_tokens:
        text_config = config.get("text_config")
        num = config.get("vocab_size", (text_config or {}).get("vocab_size"))
        inner = with_tokens(inner, add_tokens, num_rows=num)
    return HubTokenizer(inner)


def shared_tokenizer(path: str, add_tokens: Sequence[str] = ()) -> HubTokenizer:
    """`load_tokenizer`, which reads a folder again only when its files have changed. For one thread
    alone: encoding sets a switch of the object."""
    folder = resolve.resolve_model(path)
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    changes = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return _shared(str(folder), tuple(add_tokens), changes)


@lru_cache(maxsize=4)
def _shared(
    folder: str, add_tokens: tuple[str, ...], changes: tuple[tuple[str, int, int], ...]
) -> HubTokenizer:
    return load_tokenizer(folder, add_tokens)


def _tokenizer_fault(folder: Path, error: BaseException) -> DataError:
    files = sorted(folder.glob("*token*.json"))
    for file in files:
        read_object(file)  # a broken file is named by its own error
    fault = "no tokenizer.json in it"
    if folder / "tokenizer.json" in files:
        names = ", ".join(file.name for file in files)
        fault = f"the tokenizer in it ({names}) cannot be used ({reason(error)})"
    return DataError(f"{folder}: {fault}; save the model's tokenizer into the folder.")
