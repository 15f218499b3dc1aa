"""GRPO's loss and gradient beside TRL's, on the same log-probabilities; skipped where TRL is not
installed (`benchmarks/training.py` names the version)."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bezoar.train.grpo import GRPO
from bezoar.train.rewards import Number

LIKE: dict[str, Any] = {"model": "m", "rows": "r", "rewards": (Number(),), "samples": 4}
CASES = [
    ("dapo", GRPO(**LIKE, kl=0.0, clip_high=0.28)),
    ("dapo", GRPO(**LIKE, kl=0.04)),
    ("bnpo", GRPO(**LIKE, kl=0.3)),
    ("grpo", GRPO(**LIKE, kl=0.04, average="answer")),
    ("dr_grpo", GRPO(**LIKE, kl=0.0, average="constant", scale="none", max_tokens=6)),
]


def theirs(kind: str, ours: GRPO, inputs: dict[str, Any], logprobs: Tensor) -> Tensor:
    """TRL's own method, given the log-probabilities in place of a model."""
    trl_grpo = pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError)
    trainer = object.__new__(trl_grpo.GRPOTrainer)
    settings = {
        "loss_type": kind,
        "beta": ours.kl,
        "epsilon_low": ours.clip,
        "epsilon_high": ours.clip_high or ours.clip,
        "importance_sampling_level": "token",
        "max_completion_length": ours.max_tokens,
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        "model": SimpleNamespace(training=True),
        "current_gradient_accumulation_steps": 1,
        "accelerator": SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x, device="cpu"
        ),
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
    }
    trainer.__dict__.update(settings)
    read = lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)  # noqa: E731
    trainer.__dict__["_get_per_token_logps_and_entropies"] = read
    return trainer._compute_loss(None, inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "ours"), CASES)
def test_loss_and_gradient_equal_those_of_trl(kind: str, ours: GRPO) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([6, 2, 5, 1, 3, 6, 4, 2])
    mask = (torch.arange(6)[None] < lengths[:, None]).float()
    new, old, reference = (-torch.rand(8, 6, generator=draw) * 2 for _ in range(3))
    scores = torch.tensor([0.0, 1.0, 0.3, 1.0, 0.5, 0.5, 0.2, 0.9])
    one, two = (new.clone().requires_grad_() for _ in range(2))
    gains = ours.advantages(scores, torch.zeros(8))
    # TRL's: the unbiased deviation of the group, and 1e-4
    groups = scores.view(-1, 4)
    spread = groups.std(1, keepdim=True) + 1e-4 if ours.scale == "group" else 1.0
    trl_gains = ((groups - groups.mean(1, keepdim=True)) / spread).flatten()
    losses, _ = ours.token_losses(one, old, reference, gains[:, None])
    mine = (losses * ours.weights(mask, torch.ones(8))).sum()
    inputs = {
        "prompt_ids": torch.zeros(8, 1).long(),
        "prompt_mask": torch.ones(8, 1).long(),
        "completion_ids": torch.zeros(8, 6).long(),
        "completion_mask": mask,
        "advantages": trl_gains,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    expected = theirs(kind, ours, inputs, two)
    assert mine.item() == pytest.approx(expected.item(), rel=1e-6)
    mine.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, two.grad)
    assert one.grad is not None
    assert one.grad.abs().max() > 0
