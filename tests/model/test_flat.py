"""Flat rows: what is fed and predicted, packing, and attention over segments against a dense
mask."""

import pytest
import torch

from bezoar.model.attention import Segment, attend, attend_dense, attend_flex, block_mask, sees
from bezoar.model.limited_attention import Rule
from bezoar.model.packed import pack
from bezoar.model.prompt_group import Completion, PromptGroup, alike, answer, best_fit, num_read


def test_a_tree_by_hand() -> None:
    group = PromptGroup(
        [1, 2, 3], [Completion([4, 5], [True, True]), Completion([6, 7, 8], [True, False, True])]
    )
    batch = pack([group, answer([9], [10])])
    # the last token of a branch is not fed; the trunk's last token predicts the first of each
    # branch
    assert batch.tokens.tolist() == [1, 2, 3, 4, 6, 7, 9]
    assert batch.positions.tolist() == [0, 1, 2, 3, 3, 4, 0]
    assert batch.index.tolist() == [2, 3, 2, 5, 6]
    assert batch.target.tolist() == [4, 5, 6, 8, 10]
    assert batch.answer_index.tolist() == [0, 0, 1, 1, 2]
    assert batch.num_answers == 3
    assert batch.layout.segments == ((0, 4, 0, 0), (4, 6, 0, 3), (6, 7, 0, 0))
    assert group.num_input_tokens + 1 == len(batch.tokens)


def test_without_sharing_each_answer_has_its_own_prompt() -> None:
    group = PromptGroup([1, 2], [Completion([3, 4], [True, True]), Completion([5], [True])])
    batch = pack([group], share=False)
    assert batch.tokens.tolist() == [1, 2, 3, 1, 2]
    assert batch.answer_index.tolist() == [0, 0, 1]


def test_pack_is_best_fit_longest_first() -> None:
    # 7 opens a group (3 left), 6 opens another (4 left), 4 fills the second, 3 fills the first, 2
    # opens a third
    assert best_fit([3, 7, 2, 6, 4], 10) == [[0, 1], [2], [3, 4]]
    assert best_fit([12, 5, 5], 10) == [[0], [1, 2]]
    assert best_fit([], 10) == []


def test_prompts_that_begin_alike_are_read_once() -> None:
    start = list(range(100, 200))
    groups = [
        PromptGroup([*start, 1, 2], [Completion([3, 4], [True, True])]),
        PromptGroup(start, [Completion([5, 6], [False, True])]),
        PromptGroup([*start, 7], [Completion([8], [True])]),
    ]
    batch = pack([answer([9], [10]), *groups])
    assert batch.tokens.tolist() == [9, *start, 1, 2, 3, 5, 7]
    assert batch.positions.tolist() == [0, *range(100), 100, 101, 102, 100, 100]
    # what is trained, and what it is predicted from, are those of the groups by themselves
    assert batch.target.tolist() == [10, 3, 4, 6, 8]
    assert batch.tokens[batch.index].tolist() == [9, 2, 3, 5, 7]
    assert batch.answer_index.tolist() == [0, 1, 1, 2, 3]
    assert batch.layout.segments == (
        (0, 1, 0, 0),
        (1, 104, 0, 0),
        (104, 105, 1, 101),
        (105, 106, 1, 101),
    )
    assert num_read(groups) + 1 == len(batch.tokens)


def test_what_begins_otherwise_stays_apart() -> None:
    start = list(range(100))
    same = [answer([*start, 500 + i], [1, 2]) for i in range(3)]
    two = PromptGroup(start, [Completion([1, 2], [True, True])] * 2)
    # less than most of the prompt, too few tokens, several answers
    for other in (answer([*start[:70], 9, 9], [1]), answer(start[:60], [1]), two):
        assert alike([*same, other]) == [[0, 1, 2], [3]]
    # 100 tokens in common and two of each: 104 of two and 106 of all
    assert num_read(same) == 106
    assert alike(same, 106) == [[0, 1, 2]]
    assert alike(same, 105) == [[0, 1], [2]]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
def test_attention_equals_a_dense_mask_forward_and_backward(
    dtype: torch.dtype, near: float
) -> None:
    torch.manual_seed(0)
    heads, groups, size, count = 4, 2, 8, 23
    segments = (
        Segment(0, 9, 0, 0),
        Segment(9, 13, 0, 5),
        Segment(13, 14, 0, 5),
        Segment(14, 23, 0, 0),
    )
    inputs = [
        torch.randn(1, n, count, size, dtype=dtype, requires_grad=True)
        for n in (heads, groups, groups)
    ]
    out = attend(*inputs, segments)
    grad = torch.randn_like(out)
    fast = torch.autograd.grad(out, inputs, grad)
    plain = attend_dense(*inputs, segments)
    slow = torch.autograd.grad(plain, inputs, grad)
    assert torch.allclose(out, plain, atol=near)
    for one, two in zip(fast, slow, strict=True):
        assert torch.allclose(one, two, atol=near)


RULES = [Rule(window=4), Rule(window=40), Rule(softcap=0.7), Rule(0.3, 3, 0.7)]


@pytest.mark.parametrize("rule", RULES)
def test_windows_and_caps_equal_a_dense_mask(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    from bezoar.model import attention, limited_attention

    monkeypatch.setattr(limited_attention, "_BLOCK", 4)
    monkeypatch.setattr(attention, "_flex_kernel", lambda: flex_attention)
    torch.manual_seed(0)
    segments = (Segment(0, 9, 0, 0), Segment(9, 16, 0, 5), Segment(16, 17, 0, 5))
    inputs = [torch.randn(1, n, 17, 16, requires_grad=True) for n in (4, 2, 2)]
    out = attend(*inputs, segments, rule)
    plain = attend_dense(*inputs, segments, rule)
    assert torch.allclose(out, plain, atol=1e-5)
    grad = torch.randn_like(out)
    fast, slow = (torch.autograd.grad(o, inputs, grad) for o in (out, plain))
    for one, two in zip(fast, slow, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    mask = block_mask(segments, torch.device("cpu"), rule.window)
    flex = attend_flex(*(x.detach() for x in inputs), mask, rule)
    assert torch.allclose(flex, plain, atol=1e-5)


def test_a_window_by_hand() -> None:
    # all scores are 0: the mean of the values that are seen, of which the prompt's first is not
    query, key = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2)
    value = torch.tensor([[[[2.0, 0.0], [4.0, 0.0], [9.0, 1.0], [6.0, 0.0]]]])
    segments = (Segment(0, 3, 0, 0), Segment(3, 4, 0, 2))
    out = attend(query, key, value, segments, Rule(window=2))
    assert out[0, 0].tolist() == [[2.0, 0.0], [3.0, 0.0], [6.5, 0.5], [5.0, 0.0]]


def test_lengths_are_those_of_the_longest_sequence() -> None:
    batch = pack(
        [PromptGroup([1, 2], [Completion([3, 4, 5], [True] * 3), Completion([6, 7], [True] * 2)])]
    )
    assert batch.lengths.tolist() == [4, 4, 4, 4, 3]


def test_the_block_mask_of_the_gpu_kernel_sees_the_same() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    torch.manual_seed(0)
    segments = (
        Segment(0, 9, 0, 0),
        Segment(9, 13, 0, 5),
        Segment(13, 14, 0, 5),
        Segment(14, 23, 0, 0),
    )
    mask = sees(segments, torch.device("cpu"))
    seen = [
        [bool(mask(0, 0, torch.tensor(q), torch.tensor(k))) for k in range(23)] for q in range(23)
    ]
    assert seen[10] == [k < 5 or k in (9, 10) for k in range(23)]
    assert seen[14] == [k == 14 for k in range(23)]
    inputs = [torch.randn(1, n, 23, 16) for n in (4, 2, 2)]
    out = flex_attention(
        *inputs, block_mask=block_mask(segments, torch.device("cpu")), enable_gqa=True
    )
    assert torch.allclose(out, attend(*inputs, segments), atol=1e-5)


def test_a_dense_mask_by_hand() -> None:
    # one head; the second segment sees the first token and itself: the mean of their values, for
    # all scores are 0
    query, key = torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2)
    value = torch.tensor([[[[1.0, 0.0], [3.0, 0.0], [8.0, 1.0]]]])
    out = attend_dense(query, key, value, (Segment(0, 2, 0, 0), Segment(2, 3, 0, 1)))
    assert out[0, 0].tolist() == [[1.0, 0.0], [2.0, 0.0], [4.5, 0.5]]
