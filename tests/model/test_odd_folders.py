"""Folders of a model and an adapter with any damage to any file: what is opened computes, or one
sentence names a file in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bezoar.errors import BezoarError
from bezoar.model.prompt_group import answer
from bezoar.model.score import score
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.tokenizer import load_tokenizer, shared_tokenizer

ODD: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 8)
    | st.sampled_from(
        [
            10**4,
            10**6,
            2**31,
            10**12,
            10**400,
            0.5,
            1e308,
            float("nan"),
            float("inf"),
            "",
            "a",
            "x" * 5000,
            "\x1b]52;c;\a",
            "gelu",
            "sdpa",
            "../x",
            "/etc/passwd",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "quant_method", "default", "content"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)
KEYS = [
    "quantization_config",
    "text_config",
    "layer_types",
    "num_labels",
    "id2label",
    "rope_parameters",
    "rope_scaling",
    "auto_map",
    "dtype",
    "head_dim",
    "pruned_heads",
    "model_type",
    "transformers_weights",
    "fusion_config",
    "attn_implementation",
    "tie_word_embeddings",
    "chat_template",
    "extra_special_tokens",
    "model_max_length",
    "tokenizer_class",
    "added_tokens_decoder",
    "eos_token",
    "bos_token",
    "eos_token_id",
    "target_modules",
    "layers_to_transform",
    "r",
    "lora_alpha",
    "use_rslora",
    "peft_type",
    "outputs",
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "rms_norm_eps",
    "hidden_act",
    "max_position_embeddings",
]
HEADER = {
    "dtype": ["I8", "F8_E4M3", "BF16", "F64", "XX", 5],
    "shape": [[], [1], [10**12], [-1], [2, 32], None],
    "data_offsets": [[0, 0], [0, 10**12], [5, 1], None],
}


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
    stack.save_trained(folder)
    shutil.copytree(tiny_model, folder / "model")
    return folder


def damage(file: Path, data: st.DataObject) -> None:
    """Other values in JSON or in the header of tensors, other bytes, or fewer."""
    how, old = data.draw(st.sampled_from(["values", "values", "bytes", "cut"])), file.read_bytes()
    if how == "cut" or not old:
        file.write_bytes(old[: data.draw(st.integers(0, len(old)))])
    elif how == "bytes":
        new = bytearray(old)
        for at in data.draw(
            st.lists(st.integers(0, min(len(old), 4000) - 1), min_size=1, max_size=4)
        ):
            new[at] = data.draw(st.integers(0, 255))
        file.write_bytes(bytes(new))
    elif file.suffix == ".json":
        values = json.loads(old)
        for key in data.draw(st.lists(st.sampled_from([*values, *KEYS]), min_size=1, max_size=3)):
            values[key] = data.draw(ODD)
        file.write_text(json.dumps(values))
    else:
        size = int.from_bytes(old[:8], "little")
        table = json.loads(old[8 : 8 + size])
        name = data.draw(st.sampled_from(sorted(table)))
        key = data.draw(st.sampled_from(["name", "gone", *HEADER]))
        entry = table.pop(name)
        if key != "gone":
            table[name + "\x1b" if key == "name" else name] = {
                **entry,
                **({key: data.draw(st.sampled_from(HEADER[key]))} if key in HEADER else {}),
            }
        header = json.dumps(table).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + old[8 + size :])


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_damage_is_named_or_harmless(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "odd"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        try:
            damage(file, data)
        except ValueError:  # a header or JSON that was damaged before
            file.write_bytes(b"")
    told = f"{folder}."
    try:
        stack = Stack(ModelSpec(str(folder / "model"), dtype="float32"), [folder / "adapter"])
        ids = stack.tokenizer.encode("Hello, you.")
        [[found]] = score(stack, [answer(ids[:2], ids[2:])])
        assert found.logprobs.shape == (len(ids) - 2,)
    except BezoarError as error:
        told = str(error)
    assert str(folder) in told
    assert told.isprintable()
    assert told.endswith(".")


def save_words(folder: Path, words: dict[str, int]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"</s>": 0, **words}, unk_token="</s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>").save_pretrained(folder)


def test_a_vocabulary_of_whole_words_is_one(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole / "model", tmp_path / "words")
    save_words(folder, {"sea": 1, "wave": 2})
    assert load_tokenizer(str(folder)).encode("wave sea") == [2, 1]


def test_a_shared_tokenizer_is_read_again_when_its_files_change(
    whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole / "model", tmp_path / "words")
    save_words(folder, {"sea": 1, "wave": 2})
    first = shared_tokenizer(str(folder))
    assert shared_tokenizer(str(folder)) is first
    assert shared_tokenizer(str(folder), ("[new]",)).size == first.size + 1
    save_words(folder, {"wave": 1, "sea": 2})
    assert shared_tokenizer(str(folder)).encode("wave sea") == [1, 2]
