"""The memory that a plan predicts."""

import gc
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.flow.recipe import load_recipe
from bezoar.model.kv_cache import KVCache
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train import memory
from bezoar.train.hardware import fresh_peak, peak_memory
from bezoar.train.layer_shapes import layer_shapes
from bezoar.train.memory import (
    PAGE,
    Memory,
    _kept,
    largest_budget,
    memory_here,
    options,
    predict_memory,
)
from bezoar.train.objectives import SFT
from bezoar.train.stages import PPO, Train
from tests.helpers.activations import KINDS, deeper, kept

CONFIG = {
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def test_parts_by_hand() -> None:
    found = predict_memory(
        CONFIG, ModelSpec("m"), LoRA(r=2, dropout=0.0, targets=("q_proj",)), tokens=10
    )
    assert found is not None
    # a layer: q 64, k and v 32, o 64, gate, up and down 128 each; embeddings 800; bfloat16
    assert found.weights == (2 * (64 + 32 + 32 + 64 + 3 * 128) + 800) * 2
    # two matrices [2, 8] and [8, 2] a layer; weight, gradient and two moments in float32
    assert found.trained == 2 * 2 * 16 * 16
    # norms 16, q 8, k and v 4 each, gate and up 32, 4 log-sum-exps and 2 scales; adapter: its input
    # 8, rank 2
    kept = (16 + 8 + 8 + 32) * 2 + 4 * 4 + 2 * 4 + (8 + 2) * 2
    beside = (4 * 16 + 4 * 8) * 2 + (8 + 16) * 4
    assert found.activations == 10 * (2 * kept + beside)
    assert (
        found.total
        == found.process + found.weights + found.trained + found.head + found.activations
    )


def test_parts_of_all_weights_by_hand() -> None:
    def parts(**options: Any) -> Memory:
        found = predict_memory(CONFIG, ModelSpec("m"), None, tokens=10, **options)
        assert found is not None
        return found

    linear, embeddings = 2 * (64 + 32 + 32 + 64 + 3 * 128), 800
    found = parts()
    assert found.weights == 4 * (linear + embeddings)
    # gradient and two moments; at the head a gradient more, with copies in bfloat16
    assert found.trained == 12 * (linear + embeddings)
    assert found.head == parts(on_gpu=True).head == 300 * 10**6 + 8 * 800
    # norms 4 x 8 in float32 and two scales; q 8, k and v 4, 4 log-sum-exps; inputs of q, k, v,
    # gate and up 8 each and of o 8; gate, up, silu and their product 16
    kept = (4 * 8 + 2) * 4 + (8 + 4 + 4) * 2 + 4 * 4 + 6 * 8 * 2 + 4 * 16 * 2
    beside = (4 * 16 + 4 * 8) * 2 + (8 + 16) * 4
    # and all matrices once in bfloat16
    assert found.activations == 10 * (2 * kept + beside) + 2 * linear
    # recomputed: the input of each layer in float32, and all of one layer, after the head
    less = parts(recompute=True)
    assert less.activations == 10 * 2 * 4 * 8 + 2 * linear
    long = predict_memory(CONFIG, ModelSpec("m"), None, tokens=10**6, on_gpu=True, recompute=True)
    assert long is not None
    assert long.activations + long.head == 10**6 * (2 * 4 * 8 + kept + beside) + 2 * linear
    # of four parts the embeddings and two layers are whole, and a layer's copies when it is read
    whole = 4 * (embeddings + 2 * linear // 2)
    assert parts(parts=4).activations == found.activations + whole
    assert parts(parts=4, recompute=True).activations == 10 * 2 * 4 * 8 + whole
    # the best weights, in the machine's memory alone
    assert parts(keeps_best=True).best == 4 * (linear + embeddings)
    assert parts(keeps_best=True, on_gpu=True).best == found.best == 0
    assert parts(keeps_best=True).total == found.total + 4 * (linear + embeddings)
    assert found.ahead == found.total - found.weights - found.process
    # one moment; two of 8 bits with a scale of 32 for each 256 numbers
    assert parts(optimizer="rmsprop").trained == 8 * (linear + embeddings)
    small = (4 + 2 + 8 / 256) * (linear + embeddings)
    assert parts(optimizer="adamw_8bit_paged").trained == round(small)


def test_what_a_recipe_says_is_in_the_prediction() -> None:
    kept = options(Train("m", "r", SFT(), None, optimizer="rmsprop"))
    assert kept == {"optimizer": "rmsprop", "keeps_best": True}
    assert not options(Train("m", "r", SFT(), validation=0.0))["keeps_best"]


LLAMA_3B = {
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def test_asft_at_full_size_fits_on_one_gpu_of_80_gb() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "asft-full.yaml")
    spec = recipe.models["base"]
    trainings = [stage for stage in recipe.stages.values() if isinstance(stage, Train)]
    assert len(trainings) == 5
    for stage in trainings:
        assert (stage.adapter, stage.recompute, spec.dtype) == (None, "auto", "bfloat16")
        keywords = {"tokens": stage.tokens_per_batch, "on_gpu": True, **options(stage)}
        whole, less = (
            predict_memory(LLAMA_3B, spec, None, recompute=recompute, **keywords)
            for recompute in (False, True)
        )
        assert whole is not None
        assert less is not None
        # a card of 80 GB has 79.1 GiB; weights, gradient and moments are 51.4 GB of them
        assert 51e9 < less.total < 0.95 * 79.1 * 2**30 < whole.total


def test_what_is_predicted_here_recomputes_where_it_must(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, config = ModelSpec(str(tiny_model)), json.loads((tiny_model / "config.json").read_text())
    stage = Train("m", "r", SFT(), None, optimizer="rmsprop")
    kept, less = (
        predict_memory(config, spec, None, tokens=500, recompute=recompute, **options(stage))
        for recompute in (False, True)
    )
    assert kept is not None
    assert less is not None
    for free, expected in ((kept.total, kept), (kept.total - 1, less)):
        monkeypatch.setattr(memory, "available", lambda free=free: (free, False))
        found = memory_here(config, spec, stage, tokens=500)
        assert found is not None
        assert found[0] == expected.total
        assert found[1] is not None
        assert found[1] >= 500
        never = memory_here(config, spec, replace(stage, recompute="never"), tokens=500)
        assert never is not None
        assert never[0] == kept.total
    # the reward model of PPO lies beside the policy
    ppo = PPO("m", "r", "rows")
    alone, both = (
        memory_here(config, spec, ppo, tokens=500, beside=beside) for beside in ([], [spec])
    )
    assert alone is not None
    assert both is not None
    assert both[0] - alone[0] == kept.weights // 2


@pytest.mark.parametrize("kind", ["full", "full in float32", "lora", "nf4"])
def test_the_prediction_counts_what_a_layer_keeps(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    spec, lora = KINDS[kind]
    counted, config = [], json.loads((tiny_model / "config.json").read_text())
    for layers in (2, 3):
        folder = deeper(tiny_model, tmp_path / str(layers), layers)
        stack = Stack(ModelSpec(str(folder), spec.quantize, spec.dtype))
        parameters = stack.add_adapter(lora, seed=0)
        stack.net.train()
        counted.append(kept(stack, parameters)[0])
    shapes, width = layer_shapes(config), 2 if spec.dtype == "bfloat16" else 4
    expected = 119 * sum(_kept(config, shapes, lora, width))
    if lora is None:
        # copies of the matrices in bfloat16
        expected += sum(i * o for i, o in shapes.values()) * 2 if width == 2 else 0
    else:
        # one pair of angles of 16 numbers, which a model of real size does not notice
        expected += 119 * 16 * width
    assert counted[1] - counted[0] == expected


def test_large_tensors_take_whole_pages() -> None:
    spec, lora = ModelSpec("m"), LoRA(r=2, dropout=0.0, targets=("q_proj",))
    # gate and up, 32 bytes a token, take two pages each; nothing else reaches one
    tokens = PAGE // 32 + 1
    on_cpu, on_gpu = (
        predict_memory(CONFIG, spec, lora, tokens=tokens, on_gpu=on_gpu) for on_gpu in (False, True)
    )
    assert on_cpu is not None
    assert on_gpu is not None
    # the two of both layers, the four beside them, and the queries' 32 bytes there
    assert on_cpu.activations - on_gpu.activations == (2 * 2 + 4 + 1) * (2 * PAGE - 32 * tokens)
    assert on_gpu.process == 0


def test_the_largest_budget_fits_and_no_larger_one_does() -> None:
    spec, lora = ModelSpec("m", "nf4"), LoRA()

    def total(tokens: int) -> int:
        found = predict_memory(CONFIG, spec, lora, tokens=tokens)
        assert found is not None
        return found.total

    assert largest_budget(CONFIG, spec, lora, free=total(110)) == 110
    assert largest_budget(CONFIG, spec, lora, free=total(110) - 1) == 109
    assert largest_budget(CONFIG, spec, lora, free=total(0) - 1) == 0


def test_a_model_in_4_bits_lets_go_of_the_file_that_it_was_packed_from(
    tiny_model: Path, tmp_path: Path
) -> None:
    maps, folder = Path("/proc/self/maps"), tmp_path / "model"
    if not maps.is_file():
        pytest.skip("the system does not list what is mapped")
    shutil.copytree(tiny_model, folder)
    plain = Stack(ModelSpec(str(folder), dtype="float32"))
    assert str(folder) in maps.read_text()
    ids, spec = torch.tensor([[1, 2, 3]]), ModelSpec(str(folder), "nf4", "float32")
    embedded = plain.net.get_input_embeddings()(ids)
    del plain
    for _ in range(2):  # packed now, and read as it was packed
        stack = Stack(spec)
        gc.collect()
        assert str(folder) not in maps.read_text()
        assert stack.net.get_input_embeddings()(ids).equal(embedded)
        del stack


def test_packing_counts_where_it_needs_more_than_training() -> None:
    def parts(quantize: Any, **options: Any) -> Memory:
        found = predict_memory(CONFIG, ModelSpec("m", quantize), LoRA(r=2), tokens=10, **options)
        assert found is not None
        return found

    linear = 2 * (64 + 32 + 32 + 64 + 3 * 128)
    # the pages of the file, beside the weights as they are unpacked and in 4 bits
    assert parts("nf4").packing == 2 * linear
    assert parts("none").packing == parts("nf4", on_gpu=True).packing == 0
    large = replace(parts("nf4"), packing=10**9)
    assert large.total == large.process + large.weights + 10**9
    assert replace(large, packing=large.ahead).total == parts("nf4").total


def test_ppo_counts_what_draws_its_answers_by_hand() -> None:
    ppo = PPO("m", "r", "rows", slots=32, batch_size=3, max_length=6, max_tokens=4)
    assert options(ppo) == {"optimizer": "adamw", "slots": 3, "positions": 10}
    assert options(replace(ppo, rollouts="engine"))["slots"] == 0
    spec, lora = ModelSpec("m"), LoRA(r=2)
    found, on_gpu = (
        predict_memory(CONFIG, spec, lora, tokens=10, on_gpu=on_gpu, **options(ppo))
        for on_gpu in (False, True)
    )
    assert found is not None
    assert on_gpu is not None
    # keys and values of two layers in three slots: two groups of 2, a block of positions
    cache = KVCache(3, torch.device("cpu"))
    cache.reserve(10)
    made = [cache.layer(n, torch.zeros(1, 2, 1, 2, dtype=torch.bfloat16)) for n in range(2)]
    held = sum(tensor.nbytes for pair in made for tensor in pair)
    assert held == 2 * 3 * 128 * 2 * 4 * 2
    merged = 2 * (64 + 32 + 32 + 64 + 3 * 128)
    assert found.drawing == 2 * (merged + 800) + held
    assert on_gpu.drawing == 2 * merged + 2 * held  # blocks of a GPU are twice as long
    # nothing is read with a gradient meanwhile
    assert found.ahead == found.trained + found.head + found.activations
    longer = replace(found, drawing=10**9)
    assert longer.ahead == found.trained + 10**9


def test_a_critic_counts_as_a_second_model_that_trains(tiny_model: Path) -> None:
    spec, config = ModelSpec(str(tiny_model)), json.loads((tiny_model / "config.json").read_text())
    ppo = PPO("m", "r", "rows", tokens_per_batch=2048, recompute="never")
    one, two = (
        memory_here(config, spec, replace(ppo, critic=critic), tokens=2048, beside=[spec])
        for critic in ("head", "reward")
    )
    lone = predict_memory(config, spec, ppo.adapter, tokens=2048)
    assert one is not None
    assert two is not None
    assert lone is not None
    assert two[0] - one[0] == lone.weights + lone.trained + lone.activations
    # fewer tokens fit, for the critic reads them too
    assert one[1] is not None
    assert two[1] is not None
    assert two[1] < one[1]
    adapter = Stack(spec).add_adapter(ppo.adapter, seed=0)
    assert lone.trained == 4 * sum(p.nbytes for p in adapter.values())


def test_another_family_is_not_predicted() -> None:
    assert predict_memory({"n_embd": 8}, ModelSpec("m"), LoRA(), tokens=10) is None
    assert largest_budget({"n_embd": 8}, ModelSpec("m"), LoRA(), free=10**9) is None


_RUN = """
import json, random, sys
from pathlib import Path
from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.model.find import local_config
from bezoar.flow.recipe import load_recipe
from bezoar.model.kv_cache import KVCache
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.hardware import peak_memory
from bezoar.train.memory import predict_memory
from bezoar.train.objectives import OBJECTIVES
from bezoar.train.step import TrainState
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train
from bezoar.progress import Progress

case, out, draw, fullest = json.loads(sys.argv[1]), Path(sys.argv[2]), random.Random(0), [0]
text = lambda low, high: " ".join(draw.choices("the sea has waves and wind in old stones while geese fly over southern hills".split(), k=draw.randint(low, high)))
if case["pairs"]:
    rows = [Comparison(str(i), (Message("user", text(*case["prompt"])),), text(*case["answer"]), text(*case["answer"])) for i in range(4 * case["batch"])]
else:
    rows = [Chat(str(i), (Message("user", text(*case["prompt"])), Message("assistant", text(*case["answer"])))) for i in range(4 * case["batch"])]

class Measured(TrainState):
    def micro_batches(self, rows, budget):
        batches = super().micro_batches(rows, budget)
        fullest[0] = max([fullest[0], *(sum(self.examples[i].group.num_input_tokens for i in batch) for batch in batches)])
        return batches

import bezoar.train.supervised_trainer as loop
loop.TrainState = Measured
spec = ModelSpec("smollm2-135m-instruct", case["quantize"])
adapter = None if case["targets"] is None else LoRA(targets=case["targets"] if isinstance(case["targets"], str) else tuple(case["targets"]))
train = Train("m", "r", OBJECTIVES[case["objective"]](), adapter, batch_size=case["batch"], tokens_per_batch=case["budget"], validation=0.0, **case.get("train", {}))
train.fit(rows, StageInputs(spec, [], ChatML(), out / "w", out / "o"), progress=Progress("s"), seed=0)
print(json.dumps([peak_memory(), predict_memory(local_config(spec.path), spec, adapter, tokens=fullest[0], recompute=train.recompute == "always").total]))
"""  # noqa: E501
QKV = ["q_proj", "k_proj", "v_proj"]
# the training stages of demo-real (two), cnr, drpo and asft, one of all weights, and the least that
# a model in 4 bits takes
STAGES: dict[str, dict[str, Any]] = {
    "nf4 recomputed": {
        "pairs": 0,
        "quantize": "nf4",
        "targets": "all-linear",
        "objective": "sft",
        "batch": 8,
        "budget": 1024,
        "prompt": [60, 160],
        "answer": [60, 160],
        "train": {"recompute": "always", "max_steps": 2},
    },
    "all weights": {
        "pairs": 0,
        "quantize": "none",
        "targets": None,
        "objective": "sft",
        "batch": 8,
        "budget": 1024,
        "prompt": [20, 140],
        "answer": [20, 100],
    },
    "demo-real sft": {
        "pairs": 0,
        "quantize": "nf4",
        "targets": QKV,
        "objective": "sft",
        "batch": 8,
        "budget": 2048,
        "prompt": [20, 140],
        "answer": [20, 100],
    },
    "demo-real dpo": {
        "pairs": 1,
        "quantize": "nf4",
        "targets": QKV,
        "objective": "dpo",
        "batch": 8,
        "budget": 2048,
        "prompt": [20, 110],
        "answer": [20, 90],
    },
    "cnr sft": {
        "pairs": 0,
        "quantize": "none",
        "targets": "all-linear",
        "objective": "sft",
        "batch": 4,
        "budget": 2048,
        "prompt": [60, 260],
        "answer": [60, 260],
    },
    "drpo dpo": {
        "pairs": 1,
        "quantize": "none",
        "targets": "all-linear",
        "objective": "dpo",
        "batch": 8,
        "budget": 2048,
        "prompt": [80, 150],
        "answer": [20, 50],
    },
    "asft orpo": {
        "pairs": 1,
        "quantize": "nf4",
        "targets": "all-linear",
        "objective": "orpo",
        "batch": 8,
        "budget": 2048,
        "prompt": [20, 90],
        "answer": [10, 60],
    },
}


@pytest.mark.real
@pytest.mark.parametrize("stage", STAGES)
def test_the_prediction_is_near_the_measured_peak(tmp_path: Path, stage: str) -> None:
    resolve_model("smollm2-135m-instruct")
    command = [sys.executable, "-c", _RUN, json.dumps(STAGES[stage]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, predicted = json.loads(done.stdout.splitlines()[-1])
    print(f"{stage}: peak {peak / 1e9:.2f} GB, predicted {predicted / 1e9:.2f} GB")
    assert predicted == pytest.approx(peak, rel=0.1)


def test_operations_by_hand() -> None:
    from bezoar.train.hardware import step_flops

    layers, head = 2 * (64 + 32 + 32 + 64 + 3 * 128), 800
    assert step_flops(CONFIG, tokens=10, trained=3, full=False) == 4 * (10 * layers + 3 * head)
    assert step_flops(CONFIG, tokens=10, trained=3, full=True) == 6 * (10 * layers + 3 * head)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot count a peak anew"
)
def test_a_peak_is_counted_anew_without_what_the_heap_holds() -> None:
    # too small to be mapped each for itself, and the last one keeps the heap from shrinking
    held = [torch.ones(2**16, dtype=torch.uint8) for _ in range(2**11)]
    high = peak_memory()
    last = held.pop()
    held.clear()
    fresh_peak()
    assert peak_memory() < high - 2**26
    assert last.sum() == 2**16
