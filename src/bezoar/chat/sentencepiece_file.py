"""A SentencePiece file as a fast tokenizer that writes the same tokens. Imports no torch.

The conversion of transformers leaves out the file's normaliser, and the "▁" before a text that
begins with a space: OpenLLaMA's authors advise against it. Here every step of the file is one of
the fast tokenizer, and both are compared on texts with spaces, code and accents.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar.errors import DataError, first_line

_PROBES = (
    "### Instruction:\nSay  it twice.\n\n### Response:Once upon a time, 12.5 1e-4",
    "    def f(x):\n\treturn {'a': [x, \"é\"]}\n\n\n",
    " a  b   c    \t       a     b",
    "naïve Straße 日本 😀 ﬁ ½ １２ e\u0301\u00a0\u3000",
    "<s> </s> <unk> [INST] <|im_end|>",
)


def from_file(file: Path, inner: Any) -> Any:
    """The tokenizer of `file`, with the special tokens and settings of `inner`, which transformers
    made of it. DataError if SentencePiece writes other tokens or cannot read the file."""
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        pieces: Any = SentencePieceProcessor(model_file=str(file))
        model = import_protobuf("").ModelProto.FromString(file.read_bytes())  # type: ignore[no-untyped-call]
    except Exception as error:  # its readers have no error type of their own
        fault = f"no SentencePiece model can be read from it ({first_line(error)})"
        raise DataError(f"{file}: {fault}; save or fetch the file again.") from None
    backend = _backend(model)
    special = [token for _, token in sorted(inner.added_tokens_decoder.items()) if token.special]
    backend.add_special_tokens(special)
    backend.post_processor = inner.backend_tokenizer.post_processor
    settings = {name: getattr(inner, name) for name in ("chat_template", "model_max_length")}
    settings |= {"tokenizer_object": backend, **inner.special_tokens_map}
    made = PreTrainedTokenizerFast(**settings)  # type: ignore[no-untyped-call]
    made.name_or_path = inner.name_or_path
    for text in _PROBES:
        ours = made.encode(text, add_special_tokens=False, split_special_tokens=True)
        if ours != pieces.encode(text):
            fault = f"its fast tokenizer writes {text!r:.40} otherwise than SentencePiece does"
            raise DataError(f"{file}: {fault}; put a tokenizer.json beside it.")
    return made


def _backend(model: Any) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers

    trainer, rules = model.trainer_spec, model.normalizer_spec
    scores = [(piece.piece, piece.score) for piece in model.pieces]
    if trainer.model_type == 2:
        vocabulary = {name: number for number, (name, _) in enumerate(scores)}
        merges = [pair for _, pair in sorted(_merges(vocabulary, model.pieces))]
        unknown = scores[trainer.unk_id][0]
        options = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": trainer.byte_fallback}
        backend = Tokenizer(models.BPE(vocabulary, merges, **options))
    else:
        backend = Tokenizer(
            models.Unigram(scores, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
        )
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    read = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        read.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(read)
    return backend


def _merges(vocabulary: dict[str, int], pieces: Any) -> Iterator[tuple[Any, tuple[str, str]]]:
    """Every pair of pieces that makes a third, after its rank: the third with the highest score."""
    for piece in pieces:
        # what a text cannot spell is no result of a merge: 2, 3 and 6 are unknown, control, byte
        name = piece.piece if piece.type not in (2, 3, 6) else ""
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in vocabulary and right in vocabulary:
                yield (-piece.score, vocabulary[left], vocabulary[right]), (left, right)
