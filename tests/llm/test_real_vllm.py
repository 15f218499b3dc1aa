"""The real vLLM, where BEZOAR_VLLM names its command: adapters, a recipe, tool calls."""

import os
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.llm.budget import Budget
from bezoar.llm.engine import Engine, EngineBackend
from bezoar.llm.journal import Journal
from bezoar.llm.local import StackBackend
from bezoar.llm.pool import Pool
from bezoar.llm.servers import Servers
from bezoar.progress import Progress
from tests.helpers.questions import question

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("BEZOAR_VLLM" not in os.environ, reason="BEZOAR_VLLM names no vLLM"),
]
MODEL = "smollm2-135m-instruct"
FLAGS = {"max-model-len": 1024, "enforce-eager": True, "max-num-seqs": 16}
THINGS = ("river", "clock", "violin", "bridge", "lantern", "harbour", "letter", "winter", "garden")
ASKED = [
    question(f"{verb} a {thing} in one sentence.", max_tokens=24)
    for verb in ("Describe", "Praise", "Sell", "Mend", "Lose", "Draw")
    for thing in THINGS
][:50]


def two_adapters(folder: Path, dtype: str, seed: int) -> tuple[Any, Path]:
    """A stack with adapters of unlike ranks, scales and targets, and its folder as one."""
    import torch

    from bezoar.model.spec import LoRA, ModelSpec
    from bezoar.model.stack import Stack

    spec, folders = ModelSpec(MODEL, dtype=dtype), list[Path]()  # type: ignore[arg-type]
    for number, lora in enumerate((LoRA(8, 16.0), LoRA(5, 3.0, targets=("q_proj", "down_proj")))):
        stack = Stack(spec, folders[-1:])
        torch.manual_seed(seed * 2 + number)
        for name, weight in stack.add_adapter(lora, seed=seed).items():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        folders.append(stack.save_trained(folder / str(number)))
    return Stack(spec, folders[-1:]), folders[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_stack_as_one_lora_writes_our_greedy_tokens(tmp_path: Path, dtype: str) -> None:
    engine, found = Engine(flags=FLAGS, check=len(ASKED)), list[dict[str, float]]()
    urls, written = set(), set()
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        for refresh in range(3):
            stack, folder = two_adapters(tmp_path / str(refresh), dtype, refresh)
            model = (stack.spec, [folder])
            backend = EngineBackend(engine, model, ChatML(), servers, rank=13)
            theirs = Pool(backend, journal, Budget(), Progress()).ask_all(ASKED)
            here = StackBackend(stack, ChatML())
            ours = dict(p for group in here.batches(ASKED) for p in numbered(here, group))
            same = sum(ours[i].text == reply.text for i, reply in enumerate(theirs))
            found.append({"same": same, **backend.difference(stack)})
            urls.add(backend.start(print).url)
            written.add(tuple(reply.text for reply in theirs))
            servers.unload_all()
    print(dtype, found)
    # one server, and each time other weights
    assert len(urls) == 1
    assert len(written) == 3
    if dtype == "float32":
        assert [f["same"] for f in found] == [len(ASKED)] * 3
        assert max(f["kl_max"] for f in found) < 1e-4
    else:
        # rounding makes other sums, and a text that has parted stays apart
        assert min(f["same"] for f in found) >= 10
        assert max(f["kl_mean"] for f in found) < 0.02


def numbered(backend: StackBackend, group: list[int]) -> list[tuple[int, Any]]:
    answers = next(backend.answer([ASKED[i] for i in group]))
    return [(group[place], reply) for place, reply in answers]
