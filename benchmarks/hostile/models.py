"""Models: a damaged folder is named, a damaged checkpoint costs time and no bytes, a template that
loops is stopped."""

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile.command import Ended, Place, Row, place

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    3,
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
    "../x",
    "/etc/passwd",
    [],
    ["a"],
    [[1]],
    {},
    {"a": 1},
    {"quant_method": "gptq"},
]
KEYS = [
    "quantization_config",
    "text_config",
    "layer_types",
    "num_labels",
    "id2label",
    "rope_parameters",
    "auto_map",
    "dtype",
    "head_dim",
    "model_type",
    "transformers_weights",
    "fusion_config",
    "tie_word_embeddings",
    "chat_template",
    "extra_special_tokens",
    "model_max_length",
    "tokenizer_class",
    "added_tokens_decoder",
    "eos_token",
    "eos_token_id",
    "target_modules",
    "layers_to_transform",
    "r",
    "lora_alpha",
    "peft_type",
    "outputs",
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
]
LOOPS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor"
    " %}{% endfor %}{% endfor %}"
)


def rows(quick: bool) -> Iterator[Row]:
    """All promises about models."""
    with place() as here:
        write_model(here.path / "model")
        yield folders(here.path, 150 if quick else 2000)
        yield checkpoint(here)
        yield template(here)


def write_model(folder: Path) -> None:
    """Two random layers with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(
        models.BPE(
            vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
            merges=[],
        )
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": 272,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    LlamaForCausalLM(
        LlamaConfig(**shape, tie_word_embeddings=True, bos_token_id=256, eos_token_id=258)
    ).save_pretrained(folder)


def folders(path: Path, num: int) -> Row:
    """Damaged folders, opened one after another by a process of their own."""
    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.model.stack import Stack

    stack = Stack(ModelSpec(str(path / "model")))
    stack.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
    stack.save_trained(path)
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; from hostile.models import"
        f" open_damaged; open_damaged({str(path)!r}, {num})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "BEZOAR_CACHE": str(path / "cache of odd ones")},
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}
    ok = (
        done.returncode == 0
        and not found["bad"]
        and found["longest_s"] < 10
        and found["most_mb"] < 2000
    )
    return Row(
        f"{num} damaged folders of models and adapters: one sentence that names the file, or they"
        " compute",
        json.dumps(found),
        ok,
        found,
    )


def open_damaged(path: str, num: int) -> None:
    """Print what became of them; runs in a process of its own, whose memory is measured."""
    from bezoar.errors import BezoarError
    from bezoar.model.prompt_group import answer
    from bezoar.model.score import score
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    draw, odd, bad, named, longest = random.Random(0), Path(path) / "odd", list[str](), 0, 0.0
    for number in range(num):
        shutil.rmtree(odd, ignore_errors=True)
        for part in ("model", "adapter"):
            shutil.copytree(Path(path) / part, odd / part)
        file = draw.choice(sorted(odd.rglob("*.*")))
        damage(file, draw)
        started = time.monotonic()
        try:
            stack = Stack(
                ModelSpec(str(odd / "model"), draw.choice(["none", "nf4"])), [odd / "adapter"]
            )  # type: ignore[arg-type]
            ids = stack.tokenizer.encode("Hello, you.")
            score(stack, [answer(ids[:2], ids[2:])])
        except BezoarError as error:
            named += 1
            if not str(error).isprintable() or str(odd) not in str(error):
                bad.append(f"{number} {file.name}: {error}")
        except Exception as error:
            bad.append(f"{number} {file.name}: {error!r}")
        longest = max(longest, time.monotonic() - started)
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(
        json.dumps(
            {
                "named": named,
                "computed": num - named - len(bad),
                "bad": bad[:5],
                "longest_s": round(longest, 2),
                "most_mb": round(most_mb),
            }
        )
    )


def damage(file: Path, draw: random.Random) -> None:
    """Other values in JSON, other bytes, or fewer."""
    old, how = file.read_bytes(), draw.random()
    if how < 0.2:
        file.write_bytes(old[: draw.randrange(len(old))])
    elif how < 0.5 or file.suffix != ".json":
        new = bytearray(old)
        for _ in range(draw.choice([1, 3, 30])):
            new[draw.randrange(min(len(old), 4000))] = draw.randrange(256)
        file.write_bytes(bytes(new))
    else:
        values = json.loads(old)
        for key in draw.choices([*values, *KEYS], k=draw.choice([1, 1, 3])):
            values[key] = draw.choice(ODD)
        file.write_text(json.dumps(values))


def _train(here: Place, **more: Any) -> None:
    here.rows(40)
    stage = {
        "kind": "train",
        "model": "tiny",
        "rows": "rows",
        "objective": {"kind": "sft"},
        "adapter": {"r": 2},
        "batch_size": 2,
        "checkpoint_every": 2,
        "epochs": 4,
    }
    stages = {"rows": {"kind": "jsonl", "path": "rows.jsonl"}, "made": stage}
    recipe = {
        "name": "toy",
        "seed": 5,
        "models": {"tiny": {"path": str(here.path / "model"), "quantize": "nf4"}},
        "stages": stages,
        **more,
    }
    (here.path / "toy.yaml").write_text(json.dumps(recipe))


def checkpoint(here: Place) -> Row:
    """Training that is killed, its checkpoint and its 4-bit cache damaged, ends with the bytes of
    training that was not."""
    _train(here)
    env = {"BEZOAR_CACHE": str(here.path / "cache"), "OMP_NUM_THREADS": "1"}
    whole = here.run("--out", "runs/whole", env=env)
    process = here.start("--out", "runs/killed", env=env)
    until = time.monotonic() + 120
    while (
        not list(here.path.glob("runs/killed/.work-made-*/*/step-*/progress.json"))
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    ours = [
        *here.path.glob("runs/killed/.work-made-*/*/step-*/weights.safetensors"),
        *here.path.glob("cache/nf4/*.safetensors"),
    ]
    for file in ours:
        file.write_bytes(file.read_bytes()[:-5])
    again = here.run("--out", "runs/killed", env=env)
    hashes = {
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in here.path.glob("runs/*/02-made/adapter/adapter_model.safetensors")
    }
    aside = again.said.count("it was set aside as")
    figures = {
        "codes": [whole.code, again.code],
        "damaged": len(ours),
        "set_aside": aside,
        "results": len(hashes),
    }
    ok = (
        whole.code == again.code == 0 and len(ours) >= 2 and aside == len(ours) and len(hashes) == 1
    )
    return Row(
        "training that is killed, its checkpoint and its 4-bit cache damaged, ends with the same"
        " bytes and says so",
        json.dumps(figures),
        ok,
        figures,
    )


def template(here: Place) -> Row:
    """A recipe whose model has a template without end."""
    _train(here, template={"kind": "hub"})
    (here.path / "model" / "chat_template.jinja").write_text(LOOPS)
    done: Ended = here.run("--out", "runs/loops", env={"BEZOAR_CACHE": str(here.path / "cache")})
    figures = {
        "code": done.code,
        "seconds": round(done.seconds, 1),
        "said": done.said.strip().splitlines()[-1][:300],
    }
    ok = (
        done.code == 2
        and "chat template" in done.said
        and "was stopped" in done.said
        and "Traceback" not in done.said
        and done.seconds < 60
    )
    return Row(
        "a chat template that loops is stopped within seconds, in one sentence",
        json.dumps(figures),
        ok,
        figures,
    )
