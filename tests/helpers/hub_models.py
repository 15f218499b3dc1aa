"""The models that recipes name, as they lie on the Hub: class and sizes of the configuration, kind
of tokenizer, files, gates. The weights are a few bytes that nobody may fetch."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.hub import Hub
from tests.helpers.known_tokenizers import CHATML_TEMPLATE, pieces_folder

WEIGHTS = b"no test may read these bytes" * 100
"""In place of safetensors and pickled weights."""
_PIECES = (".model", "_config.json")
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
_LLAMA_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def add_models(hub: Hub) -> None:
    """All of them."""
    heads = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    reserved = tuple(f"<|reserved_special_token_{number}|>" for number in range(8))
    markers = (*heads, "<|eot_id|>", "<|finetune_right_pad_id|>", *reserved)
    shards = {f"model-0000{n}-of-00002.safetensors": WEIGHTS for n in (1, 2)}
    names = {f"layer.{n}": name for n, name in enumerate(shards)}
    shards["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    llama = {"rope_scaling": _LLAMA_ROPE, "max_position_embeddings": 131072, "bos_token_id": 256}
    base = sizes(3072, 28, 24, 8, 8192) | llama | {"eos_token_id": 257}
    large = sizes(4096, 32, 32, 8, 14336) | llama | {"eos_token_id": 260}
    hub.add(
        "meta-llama/Llama-3.2-3B",
        {
            **byte_level(markers, bos=heads[0], eos=heads[1]),
            **shards,
            "config.json": config("llama", base, tie_word_embeddings=True),
        },
        gated="manual",
    )
    first_end = {"eos_token_id": 257}
    hub.add(
        "meta-llama/Llama-3.1-8B",
        {
            **byte_level(markers, bos=heads[0], eos=heads[1]),
            **shards,
            "config.json": config("llama", large | first_end, tie_word_embeddings=False),
        },
        gated="manual",
    )
    hub.add(
        "meta-llama/Llama-3.1-8B-Instruct",
        {
            **byte_level(markers, bos=heads[0], eos="<|eot_id|>", template=LLAMA_TEMPLATE),
            **shards,
            "config.json": config("llama", large, tie_word_embeddings=False),
        },
        gated="manual",
    )
    end = "<|endoftext|>"
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    neox = {k: v for k, v in sizes(2560, 32, 32, 32, 10240).items() if "key_value" not in k}
    neox |= {"rotary_pct": 0.25, "use_parallel_residual": True, "max_position_embeddings": 2048}
    hub.add(
        "EleutherAI/pythia-2.8b-deduped",
        {
            **byte_level((end,), bos=end, eos=end),
            "config.json": config("gpt_neox", neox | ends, tie_word_embeddings=False),
            "model.safetensors": WEIGHTS,
            "pytorch_model.bin": WEIGHTS,
        },
    )
    falcon = {"hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128}
    falcon |= {"num_kv_heads": 8, "new_decoder_architecture": True, "parallel_attn": True}
    falcon |= {"bias": False, "alibi": False, **ends}
    hub.add(
        "tiiuae/falcon-40b-instruct",
        {
            **byte_level((end, ">>TITLE<<", ">>ABSTRACT<<"), bos=end, eos=end),
            **shards,
            "config.json": config("falcon", falcon, tie_word_embeddings=True),
        },
    )
    hub.add("openlm-research/open_llama_3b_v2", {**_open_llama(), "pytorch_model.bin": WEIGHTS})


def plant_converted_model(cache_dir: Path) -> None:
    """OpenLLaMA as if `bezoar convert` had made safetensors of it."""
    folder = cache_dir / "converted" / "openlm-research--open_llama_3b_v2"
    folder.mkdir(parents=True)
    for name, data in {**_open_llama(), "model.safetensors": WEIGHTS}.items():
        (folder / name).write_bytes(data)


@cache
def _open_llama() -> dict[str, bytes]:
    """It has SentencePiece's tokenizer.model alone."""
    plain = {**sizes(3200, 26, 32, 32, 8640), "max_position_embeddings": 2048}
    plain |= {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 320}
    folder = pieces_folder()
    return {
        "config.json": config("llama", plain, tie_word_embeddings=False),
        **{f"tokenizer{end}": (folder / f"tokenizer{end}").read_bytes() for end in _PIECES},
    }


def sizes(hidden: int, layers: int, heads: int, key_values: int, inner: int) -> dict[str, Any]:
    """The sizes in a config.json by the names that most classes have for them."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return dict(zip(names, (hidden, layers, heads, key_values), strict=True)) | {
        "intermediate_size": inner
    }


def config(kind: str, values: Mapping[str, Any], **more: Any) -> bytes:
    """A config.json; the vocabulary is the fixture's, all other sizes are the model's."""
    own = {"model_type": kind, "vocab_size": 272, "dtype": "bfloat16", **values, **more}
    return json.dumps(own).encode()


def byte_level(
    markers: Sequence[str], *, bos: str | None, eos: str, template: str = ""
) -> dict[str, bytes]:
    """The files of a byte-level BPE tokenizer, of one token a byte and these markers from 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(markers))
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    if template:
        wrapped.chat_template = template
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def plant_packaged_model(cache_dir: Path) -> None:
    """The demo's model as if it had been unpacked into the cache of bezoar: its class and kind of
    tokenizer, with tiny random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from bezoar import io as bezoar_io

    folder = cache_dir / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    markers = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    files = byte_level(markers, bos=markers[1], eos=markers[2], template=CHATML_TEMPLATE)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sizes = {"hidden_size": 144, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16}
    ends = {"bos_token_id": 257, "eos_token_id": 258, "tie_word_embeddings": True}
    # a token is a byte here, and prompts are as long as ever
    ends["max_position_embeddings"] = 32768
    values: Mapping[str, Any] = {**sizes, **heads, **ends}
    LlamaForCausalLM(LlamaConfig(vocab_size=272, **values)).save_pretrained(folder)
    (folder.parent / f".{folder.name}.hash").write_text(bezoar_io.cached_hash(folder))
