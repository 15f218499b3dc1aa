"""Objectives against TRL's, on the same tokens of the same two random models, in float32 on the
CPU.

    PYTHONPATH=src benchmarks/.venv/bin/python benchmarks/objectives_against_trl.py

in an environment that has TRL 1.16 and this project (`benchmarks/training.py` makes one). DPO,
robust DPO, IPO, hinge, DPO with a likelihood term and KTO: TRL's trainers compute the loss of a
batch. ORPO and SimPO: its loss functions, on mean log-probabilities; ORPO without the likelihood,
which TRL takes over the prompt too. DPO+SFT is on chosen answers of equal length, for TRL's mean is
over tokens. The status is 1 where a loss differs by more than 1e-5 of itself.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from training import make_model

from bezoar.train.objective import LossInputs
from bezoar.train.objectives import DPO, IPO, KTO, ORPO, Hinge, SimPO

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
PROMPT = 9
SIZES = (5, 7, 11, 5, 3, 14)  # of three chosen answers, then of the three rejected ones


def make_batch(sizes: tuple[int, ...], shift: int = 0) -> dict[str, torch.Tensor]:
    """Random prompts and answers, padded on the right; with `shift`, prompts take the answers of
    other rows."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(8000, (len(sizes) // 2, PROMPT), generator=draw).repeat(2, 1)
    answers = [torch.randint(8000, (size,), generator=draw) for size in sizes]
    rows = [torch.cat((prompts[i], answers[i - shift])) for i in range(len(sizes))]
    pad = torch.nn.utils.rnn.pad_sequence
    there = pad([torch.ones_like(row) for row in rows], batch_first=True)
    mask = pad([(torch.arange(len(row)) >= PROMPT).long() for row in rows], batch_first=True)
    return {
        "input_ids": pad(rows, batch_first=True),
        "attention_mask": there,
        "completion_mask": mask,
    }


@torch.no_grad()
def logprobs(
    model: Any, batch: dict[str, torch.Tensor], order: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the answers' tokens in an order of the rows, and the place of each
    token's answer in it."""
    values = (
        model(batch["input_ids"], attention_mask=batch["attention_mask"])
        .logits[:, :-1]
        .log_softmax(-1)
    )
    values = values.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    mask = batch["completion_mask"][:, 1:].bool()
    return torch.cat([values[i][mask[i]] for i in order]), torch.cat(
        [torch.full((int(mask[i].sum()),), place) for place, i in enumerate(order)]
    )


def main() -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    folder = tempfile.mkdtemp()
    make_model(Path(folder), "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = {"prompt": ["w1 w2"] * 4, "chosen": [" w3"] * 4, "rejected": [" w4"] * 4}
    marked = {"prompt": ["w1 w2"] * 4, "completion": [" w3", " w4"] * 2, "label": [True, False] * 2}

    def model(noise: int) -> Any:
        torch.manual_seed(noise)
        net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        return net

    def trainer(
        kind: Any,
        config: Any,
        rows: dict[str, list[Any]],
        *,
        reference: bool = True,
        **settings: Any,
    ) -> Any:
        args = config(
            folder,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=4,
            **settings,
        )
        more = {"ref_model": model(1)} if reference else {}
        return kind(
            model=model(2),
            args=args,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            **more,
        )

    def ours(objective: Any, sizes: tuple[int, ...] = SIZES) -> float:
        pairs = [row for p in range(len(sizes) // 2) for row in (p, p + len(sizes) // 2)]
        made, moved = make_batch(sizes), make_batch(sizes, 1)
        values, answer_index = logprobs(model(2), made, pairs)
        batch = LossInputs(
            answer_index,
            len(sizes),
            logprobs(model(1), made, pairs)[0],
            torch.tensor([[1.0, 0.0]] * (len(sizes) // 2)),
        )
        others = logprobs(model(2), moved, pairs)[0] - logprobs(model(1), moved, pairs)[0]
        batch.baseline = others.sum() / len(sizes)
        return float(objective.loss(batch, values).loss.mean())

    def theirs(made: Any, sizes: tuple[int, ...] = SIZES) -> float:
        made.model.eval()
        batch = make_batch(sizes)
        if isinstance(made, KTOTrainer):
            batch |= {f"KL_{k}": v for k, v in make_batch(sizes, 1).items()} | {
                "label": torch.arange(len(sizes)) < len(sizes) // 2
            }
        with torch.no_grad():
            return float(made.compute_loss(made.model, batch))

    even = (6, 6, 6, 5, 3, 14)
    found = {
        name: (ours(one, sizes), theirs(trainer(DPOTrainer, DPOConfig, words, **settings), sizes))
        for name, one, sizes, settings in [
            ("dpo", DPO(beta=0.2), SIZES, {"beta": 0.2}),
            (
                "dpo robust",
                DPO(label_smoothing=0.1, smoothing="robust"),
                SIZES,
                {"loss_type": ["robust"], "label_smoothing": 0.1},
            ),
            (
                "dpo + sft",
                DPO(sft_weight=0.3),
                even,
                {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
            ),
            ("ipo", IPO(), SIZES, {"loss_type": ["ipo"]}),
            ("hinge", Hinge(), SIZES, {"loss_type": ["hinge"]}),
        ]
    }
    kto = trainer(
        KTOTrainer, KTOConfig, marked, beta=0.2, desirable_weight=1.5, undesirable_weight=0.8
    )
    found["kto"] = ours(KTO(beta=0.2, desirable_weight=1.5, undesirable_weight=0.8)), theirs(kto)
    values, answer_index = logprobs(model(2), make_batch(SIZES), list(range(6)))
    chosen, rejected = LossInputs(answer_index, 6).means(values).chunk(2)
    orpo = trainer(ORPOTrainer, ORPOConfig, words, reference=False, beta=0.1)
    simpo = trainer(
        CPOTrainer,
        CPOConfig,
        words,
        reference=False,
        loss_type="simpo",
        beta=2.0,
        simpo_gamma=0.5,
        cpo_alpha=0.0,
    )
    found["orpo"] = (
        ours(ORPO(odds_weight=0.1, sft_weight=0)),
        -float(orpo.odds_ratio_loss(chosen, rejected)[0].mean()),
    )
    found["simpo"] = (
        ours(SimPO(beta=2.0, gamma=0.5)),
        float(simpo.cpo_loss(chosen, rejected)[0].mean()),
    )
    for name, (one, two) in found.items():
        print(
            f"{name:12} ours {one:.7f}  TRL {two:.7f}  relative difference"
            f" {abs(one - two) / abs(two):.1e}"
        )
    sys.exit(any(abs(one - two) > 1e-5 * abs(two) for one, two in found.values()))


if __name__ == "__main__":
    main()
