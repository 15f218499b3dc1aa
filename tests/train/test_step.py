"""The step: the seed of dropout, means over one unit and over many, what is counted, noise,
precision, references."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import TrainingError
from bezoar.io import content_hash
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer, prompt_group
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.label_check import Example, check_labels
from bezoar.train.objective import LossInputs, LossOutput
from bezoar.train.objectives import DPO, KTO, SFT, BradleyTerry, Regression, SimPO, SteerLM2
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train
from bezoar.train.step import (
    Totals,
    TrainState,
    autocast,
    baseline,
    count_units,
    evaluate,
    gradient,
    reference,
    states,
)
from bezoar.train.supervised_trainer import SupervisedTrainer
from tests.helpers.rows import chats, judged, pairs, sampled


def work_of(
    model: Path, objective: Any, rows: Any, *, dropout: float = 0.0, outputs: tuple[str, ...] = ()
) -> TrainState:
    """The rows with a stack whose adapter is no longer at its start."""
    stack = Stack(ModelSpec(str(model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, alpha=8, dropout=dropout), seed=1, outputs=outputs)
    torch.manual_seed(2)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    work = TrainState(
        stack,
        objective,
        check_labels(
            rows, objective, ChatML(), stack.tokenizer, max_length=500, too_long="drop"
        ).rows,
    )
    if "reference" in objective.needs:
        work.references = reference(work, [[i] for i in range(len(rows))])
    return work


def step(
    work: TrainState, groups: list[list[int]], *, seed: int = 3, number: int = 0
) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one step, whatever the global generator did before."""
    torch.manual_seed(torch.seed() % 2**31)
    trained = [p for p in work.stack.net.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    totals = gradient(work, groups, seed=seed, step=number)
    return totals.loss, torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


@pytest.fixture(scope="module")
def dropping(tiny_model: Path) -> TrainState:
    return work_of(tiny_model, SFT(), chats(3), dropout=0.5)


@pytest.mark.parametrize("other", [{"number": 1}, {"number": 7}, {"seed": 4}])
def test_dropout_is_drawn_anew_in_every_step(dropping: TrainState, other: dict[str, int]) -> None:
    rows = [[0, 1, 2]]
    assert abs(step(dropping, rows)[0] - step(dropping, rows, **other)[0]) > 1e-4


def test_dropout_of_a_step_is_the_same_again(dropping: TrainState, tiny_model: Path) -> None:
    """Also in another process: nothing but seed, step and micro-batch decides, not what was drawn
    before."""
    groups = [[0, 1], [2]]
    loss, grad = step(dropping, groups, number=5)
    step(dropping, groups, number=4)
    again, same = step(work_of(tiny_model, SFT(), chats(3), dropout=0.5), groups, number=5)
    assert again == loss
    assert torch.equal(same, grad)


def test_dropout_differs_between_the_micro_batches_of_a_step(dropping: TrainState) -> None:
    alone = step(dropping, [[0]])[0]
    twice = 2 * step(dropping, [[0], [0]])[0] - alone
    assert abs(twice - alone) > 1e-4


def test_the_seed_of_dropout_is_the_hash_of_where_it_is_drawn(dropping: TrainState) -> None:
    """What a stage that stopped under an older release goes on with."""
    assert content_hash(3, 1, 1) == "a713b0fb5b4f2a9e"
    step(dropping, [[0], [1]], number=1)
    assert torch.initial_seed() == 0x2713B0FB5B4F2A9E  # the highest bit is left out


def test_the_loop_gives_each_step_its_own_dropout(tiny_model: Path, tmp_path: Path) -> None:
    """One row and a rate of almost nothing: only dropout tells the steps apart, and a stage that
    goes on draws what it would have."""
    settings = Train(
        "base",
        "rows",
        SFT(),
        LoRA(r=4, dropout=0.5),
        lr=1e-30,
        schedule="constant",
        warmup_ratio=0.0,
        validation=0.0,
        epochs=3,
    )
    norms: list[float] = []

    @dataclass
    class Watched(Progress):
        stop: int = 9
        norms: list[float] = field(default_factory=list)

        def log(self, **values: Any) -> None:
            self.norms.append(values["grad_norm"])
            if values["step"] == self.stop:
                raise KeyboardInterrupt

    def run(name: str, progress: Watched) -> list[float]:
        place = StageInputs(
            ModelSpec(str(tiny_model), dtype="float32"),
            [],
            ChatML(),
            tmp_path / name,
            tmp_path / f"{name}-out",
        )
        settings_now = Train(**{**vars(settings), "checkpoint_every": 1})
        settings_now.fit(chats(1), place, progress=progress, seed=3)
        return progress.norms

    norms = run("whole", Watched("s"))
    assert len(set(norms)) == 3
    stopped = Watched("s", stop=2)
    with pytest.raises(KeyboardInterrupt):
        run("parts", stopped)
    assert stopped.norms == norms[:2]
    assert run("parts", Watched("s")) == norms[1:]  # the second step was logged and not kept


def test_the_seed_of_a_stage_is_that_of_its_dropout(dropping: TrainState, tmp_path: Path) -> None:
    settings, where = (
        Train("b", "r", SFT(), validation=0.0),
        StageInputs(dropping.stack.spec, [], ChatML(), tmp_path, tmp_path),
    )
    for seed in (5, 6):
        loop = SupervisedTrainer(settings, where, Progress("s"), seed, {}, dropping)
        loop.state.step = 2
        assert (
            loop.gradient_of([[0, 1, 2]]).loss
            == step(dropping, [[0, 1, 2]], seed=seed, number=2)[0]
        )


def test_rows_in_their_order_are_read_together_where_they_begin_alike(
    dropping: TrainState, tmp_path: Path
) -> None:
    starts = [[n] * 100 for n in (5, 6)]
    rows = [Example(str(i), answer([*starts[i // 4], 9, i], [1, 2])) for i in range(8)]
    state = replace(dropping, examples=rows)
    where = StageInputs(state.stack.spec, [], ChatML(), tmp_path, tmp_path)
    settings = Train("b", "r", SFT(), validation=0.0, batch_size=6, shuffle=False, epochs=2)
    loop = SupervisedTrainer(settings, where, Progress("s"), 1, {}, state)
    assert [loop.rows_of(step) for step in range(4)] == [[0, 1, 2, 3, 4, 5], [6, 7]] * 2
    # 109 and 105 tokens in place of 618
    assert state.micro_batches(range(6), 109) == [[0, 1, 2, 3], [4, 5]]
    assert evaluate(state, range(6), 109).tokens == 109 + 105


ONE_TOKEN = Example("one", prompt_group([1, 2, 3], [[7]]))
UNITS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "pair": (SimPO(), pairs(1), ()),
    "answer": (KTO(), judged(1), ()),
    "group": (SteerLM2(), sampled(1), ()),
    "pair of scores": (BradleyTerry(), pairs(1), ("reward",)),
    "label": (
        Regression(("a", "b")),
        [Chat("c", (Message("user", "x"), Message("assistant", "y")), {"attributes": {"b": 2.0}})],
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("unit", UNITS)
def test_the_mean_over_one_unit_is_that_unit(unit: str, tiny_model: Path) -> None:
    objective, rows, outputs = UNITS[unit]
    work = work_of(tiny_model, objective, rows, outputs=outputs)
    if "baseline" in objective.needs:
        work.examples = [*work.examples, Example("other", prompt_group([9, 8], [[7, 6]], (1.0,)))]
    work.baseline = baseline(work, [0], 500)
    terms = work.forward([0])
    value = terms.loss.item()
    totals = gradient(work, [[0]], seed=0, step=0)
    assert totals.units == evaluate(work, [0], 500).units == terms.loss.numel() == 1
    assert totals.loss == pytest.approx(value, rel=1e-5)
    assert evaluate(work, [0], 500).loss == pytest.approx(value, rel=1e-5)
    slope, *_ = [p for p in work.stack.net.parameters() if p.grad is not None]
    by_hand = torch.autograd.grad(work.forward([0]).loss.sum(), slope)[0]
    assert torch.allclose(slope.grad, by_hand, rtol=1e-4, atol=1e-7)  # type: ignore[arg-type]
    for name, values in terms.metrics.items():
        assert totals.metrics[name] == pytest.approx(values.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[2, 0], [1]]])
def test_the_gradient_is_the_mean_of_those_of_all_units(
    groups: list[list[int]], tiny_model: Path
) -> None:
    work = work_of(tiny_model, SimPO(), pairs(3))
    mean = torch.stack([step(work, [[i]])[1] for i in range(3)]).mean(0)
    assert torch.allclose(step(work, groups)[1], mean, rtol=1e-3, atol=1e-6)


def test_scores_come_with_the_answers_that_they_belong_to(tiny_model: Path) -> None:
    work = work_of(tiny_model, BradleyTerry(), pairs(2), outputs=("reward",))
    values, batch = work.scores([item.group for item in work.examples])
    assert values.shape == (4, 1)
    assert (batch.answer_index.tolist(), batch.num_answers) == ([0, 1, 2, 3], 4)


def test_what_a_loss_reads_lies_where_the_log_probabilities_lie(tiny_model: Path) -> None:
    """Wherever that is: here on a device that holds no numbers."""
    seen: list[LossInputs] = []

    class Elsewhere(TrainState):
        def logprobs(self, groups: Any) -> tuple[torch.Tensor, LossInputs]:
            values, batch = super().logprobs(groups)
            return values.to("meta"), batch

    class Looking(KTO):
        def loss(self, batch: LossInputs, logprobs: torch.Tensor) -> LossOutput:
            seen.append(batch)
            return LossOutput(torch.zeros(1))

    work = work_of(tiny_model, KTO(), judged(1))
    Elsewhere(work.stack, Looking(), work.examples, work.references).forward([0])
    assert [(batch.reference.device.type, batch.labels.device.type) for batch in seen] == [
        ("meta", "meta")
    ]  # type: ignore[union-attr]


def test_the_mean_over_one_token_is_that_token(tiny_model: Path) -> None:
    work = work_of(tiny_model, SFT(), chats(1))
    work.examples = [ONE_TOKEN]
    logits = work.stack.hidden(pack([ONE_TOKEN.group])) @ work.stack.head_weight.T
    wanted = -float(logits[0].log_softmax(-1)[7].detach())
    totals = gradient(work, [[0]], seed=0, step=0)
    assert totals.loss == pytest.approx(wanted, rel=1e-5)
    assert (totals.units, totals.tokens, totals.trained) == (1, 3, 1)


def test_totals_are_means_over_the_units_of_the_whole_step() -> None:
    totals = Totals(units=4)
    totals.add(LossOutput(torch.tensor([1.0, 2.0]), {"m": torch.tensor([4.0, 6.0])}), [])
    totals.add(LossOutput(torch.tensor([3.0, 6.0]), {"m": torch.tensor([1.0, 1.0])}), [])
    assert totals.loss == 3.0
    assert totals.metrics == {"m": 3.0}
    single = Totals(units=1)
    single.add(LossOutput(torch.tensor([5.0])), [])
    assert single.loss == 5.0


def test_what_is_read_and_trained_is_counted(tiny_model: Path) -> None:
    work = work_of(tiny_model, SimPO(), pairs(3))
    groups = [item.group for item in work.examples]
    read = sum(len(t.prompt) + sum(len(b.tokens) - 1 for b in t.completions) for t in groups)
    trained = sum(len(b.tokens) for t in groups for b in t.completions)
    for totals in (gradient(work, [[0, 1], [2]], seed=0, step=0), evaluate(work, [0, 1, 2], 100)):
        assert (totals.units, totals.tokens, totals.trained) == (3, read, trained)


@pytest.mark.parametrize(
    ("unit", "count"), [("token", 6), ("answer", 4), ("pair", 2), ("group", 1), ("label", 3)]
)
def test_units_of_a_row(unit: Any, count: int) -> None:
    found = count_units(
        prompt_group([1], [[2], [3, 4], [5], [6, 7]], (0.0, math.nan, 1.0, 2.0)), unit
    )
    assert found == count
    assert isinstance(found, int)


def test_an_evaluation_is_without_dropout_and_without_gradient(dropping: TrainState) -> None:
    for parameter in dropping.stack.net.parameters():
        parameter.grad = None
    once, again = evaluate(dropping, [0, 1, 2], 500), evaluate(dropping, [2, 0, 1], 1)
    assert once.loss == pytest.approx(again.loss, rel=1e-5)
    assert all(p.grad is None for p in dropping.stack.net.parameters())
    assert once.loss != pytest.approx(step(dropping, [[0, 1, 2]])[0], rel=1e-5)
    assert dropping.stack.net.training


def test_a_loss_of_the_wrong_shape_is_refused(tiny_model: Path) -> None:
    class Mean(SFT):
        def loss(self, batch: LossInputs, logprobs: torch.Tensor) -> LossOutput:
            return LossOutput(-logprobs.mean()[None])

    work = work_of(tiny_model, Mean(), chats(2))
    with pytest.raises(ValueError, match=r"^sft: the loss must have one value a token$"):
        work.forward([0, 1])


def test_a_loss_that_is_not_finite_names_step_and_rows(tiny_model: Path) -> None:
    class Broken(SFT):
        def loss(self, batch: LossInputs, logprobs: torch.Tensor) -> LossOutput:
            return LossOutput(-logprobs * math.inf)

    work = work_of(tiny_model, Broken(), chats(3))
    with pytest.raises(
        TrainingError, match=r"^step 4: the loss is inf on the rows chat-2, chat-0; look"
    ):
        gradient(work, [[2, 0], [1]], seed=0, step=4)


def test_references_are_those_of_the_stack_below(tiny_model: Path) -> None:
    work = work_of(tiny_model, DPO(), pairs(3))
    together = reference(work, [[2, 0], [1]])
    assert list(together) == [2, 0, 1]
    with work.stack.disable_adapter(), torch.no_grad():
        for row, item in enumerate(work.examples):
            assert torch.allclose(together[row], work.logprobs([item.group])[0], atol=1e-5)
            assert torch.allclose(work.references[row], together[row], atol=1e-5)
    assert not together[0].requires_grad


def test_the_baseline_is_a_mean_over_answers_of_how_far_others_moved(tiny_model: Path) -> None:
    work = work_of(tiny_model, KTO(), pairs(3))
    items = work.examples
    swapped = [
        prompt_group(a.group.prompt, [b.tokens for b in c.group.completions])
        for a, c in zip(items, [*items[1:], items[0]], strict=True)
    ]
    with torch.no_grad():
        moved = [float(work.logprobs([group])[0].sum()) for group in swapped]
        with work.stack.disable_adapter():
            moved = [
                m - float(work.logprobs([group])[0].sum())
                for m, group in zip(moved, swapped, strict=True)
            ]
    for budget in (1, 1000):
        for mode in (True, False):
            work.stack.net.train(mode)
            assert float(baseline(work, [0, 1, 2], budget)) == pytest.approx(
                sum(moved) / 6, rel=1e-4
            )  # type: ignore[arg-type]
            assert work.stack.net.training is mode
    assert float(baseline(work, [1], 1000)) == pytest.approx(moved[1] / 2, rel=1e-4)  # type: ignore[arg-type]
    work.examples = [
        Example("one", prompt_group([1, 2], [[7]])),
        Example("other", prompt_group([3], [[9]])),
    ]
    one = work.logprobs([prompt_group([1, 2], [[9]])])[0].item()
    with work.stack.disable_adapter():
        one -= work.logprobs([prompt_group([1, 2], [[9]])])[0].item()
    assert float(baseline(work, [0], 1000)) == pytest.approx(one, rel=1e-4)  # type: ignore[arg-type]
    assert baseline(work_of(tiny_model, SFT(), chats(1)), [0], 100) is None


def test_the_noise_on_embeddings_is_uniform_and_shrinks_with_the_length(tiny_model: Path) -> None:
    work = work_of(tiny_model, SFT(), chats(2))
    work.neftune = 5.0
    # one row of 400 tokens, one of 4 with two branches of which the longer makes it 6
    batch = pack([prompt_group([1] * 400, [[7]]), prompt_group([1] * 4, [[7], [7, 7, 7]])])
    embed = work.stack.net.get_input_embeddings()
    plain = embed(batch.tokens)
    work.stack.net.train()
    with work._noise(batch):
        noise = (embed(batch.tokens) - plain).detach()
    for part, length in ((noise[:400], 400), (noise[400:404], 6), (noise[404:], 6)):
        size = 5.0 / math.sqrt(length * 64)
        assert 0.9 * size < float(part.abs().max()) <= size * 1.001
        assert abs(float(part.mean())) < 0.2 * size
        assert float(part.std()) == pytest.approx(size / math.sqrt(3), rel=0.15)
    assert torch.equal(embed(batch.tokens), plain)
    work.stack.net.eval()
    with work._noise(batch):
        assert torch.equal(embed(batch.tokens), plain)


def test_noise_reaches_the_log_probabilities_in_the_precision_of_the_weights(
    tiny_model: Path,
) -> None:
    work = TrainState(Stack(ModelSpec(str(tiny_model), dtype="bfloat16")), SFT(), [])
    embed, batch = work.stack.net.get_input_embeddings(), pack([ONE_TOKEN.group])
    work.stack.net.train()
    with torch.no_grad():
        without = work.logprobs([ONE_TOKEN.group])[0]
        work.neftune = 50.0
        assert not torch.equal(work.logprobs([ONE_TOKEN.group])[0], without)
        with work._noise(batch):
            assert embed(batch.tokens).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "full", "mixed"),
    [("float32", True, False), ("bfloat16", True, True), ("bfloat16", False, False)],
)
def test_mixed_precision_is_for_float32_weights_of_bfloat16_work(
    dtype: Any, full: bool, mixed: bool, tiny_model: Path
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype=dtype))
    stack.add_adapter(None if full else LoRA(r=2), seed=0)
    assert (stack.head_weight.dtype == torch.float32) is (dtype == "float32" or full)
    with autocast(stack):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if mixed else torch.float32)
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    hidden, last = states(stack, pack([ONE_TOKEN.group]))
    assert hidden.dtype == (torch.float32 if dtype == "float32" else torch.bfloat16)
    assert torch.equal(hidden, last.to(hidden.dtype))
    assert TrainState(stack, SFT(), [])._hidden([ONE_TOKEN.group])[0].dtype == hidden.dtype


MIXED: dict[str, Any] = {
    "spec": SimpleNamespace(dtype="bfloat16"),
    "head_weight": torch.zeros(1),
    "net": SimpleNamespace(training=False),
}


def test_mixed_precision_is_bfloat16_whatever_a_device_would_choose() -> None:
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        with autocast(SimpleNamespace(device=torch.device("cpu"), **MIXED)):  # type: ignore[arg-type]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    finally:
        torch.set_autocast_dtype("cpu", before)


def test_rows_go_where_the_stack_lies() -> None:
    stack: Any = SimpleNamespace(
        device=torch.device("meta"),
        hidden=lambda batch: batch.tokens,
        **{**MIXED, "spec": SimpleNamespace(dtype="float32")},
    )
    hidden, batch = TrainState(stack, SFT(), [])._hidden([ONE_TOKEN.group])
    assert hidden.device.type == batch.target.device.type == "meta"
