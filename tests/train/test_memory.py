"""The memory that a plan predicts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bezoar.model.resolve import resolve_model
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.train.hardware import fresh_peak, peak_memory
from bezoar.train.memory import PAGE, largest_budget, predict_memory

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


def test_another_family_is_not_predicted() -> None:
    assert predict_memory({"n_embd": 8}, ModelSpec("m"), LoRA(), tokens=10) is None
    assert largest_budget({"n_embd": 8}, ModelSpec("m"), LoRA(), free=10**9) is None


_RUN = """
import json, random, sys
from pathlib import Path
from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.model.find import local_config
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import LoRA, ModelSpec
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
train = Train("m", "r", OBJECTIVES[case["objective"]](), adapter, batch_size=case["batch"], tokens_per_batch=case["budget"], validation=0.0)
train.fit(rows, StageInputs(spec, [], ChatML(), out / "w", out / "o"), progress=Progress("s"), seed=0)
print(json.dumps([peak_memory(), predict_memory(local_config(spec.path), spec, adapter, tokens=fullest[0]).total]))
"""  # noqa: E501
QKV = ["q_proj", "k_proj", "v_proj"]
# the training stages of demo-real (two), cnr, drpo and asft
STAGES = {
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
def test_a_peak_can_be_counted_anew() -> None:
    held = torch.ones(2**28, dtype=torch.uint8)
    high = peak_memory()
    assert held.sum() == 2**28
    del held
    fresh_peak()
    assert peak_memory() < high - 2**27
