"""The chunked head against log_softmax: values, gradients, a head that trains, temperature."""

import pytest
import torch

from bezoar.model.chunked_logprobs import OutputLayer, logprobs


def make() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(13, 6), torch.randn(17, 6), torch.randint(17, (13,))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [17, 17 * 5, 10_000])
def test_values_and_gradients(temperature: float, chunk: int) -> None:
    hidden, weight, target = make()
    hidden.requires_grad_()
    weight.requires_grad_()
    values = logprobs(hidden, weight, target, temperature=temperature, held=chunk)
    plain = (hidden @ weight.T / temperature).log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert torch.allclose(values, plain, atol=1e-6)
    slopes = torch.randn(13)
    for one, two in zip(
        torch.autograd.grad(values, [hidden, weight], slopes),
        torch.autograd.grad(plain, [hidden, weight], slopes),
        strict=True,
    ):
        assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("chunk", [17 * 5, 10_000])
def test_a_bias_and_capped_logits(chunk: int) -> None:
    hidden, weight, target = make()
    inputs = [hidden, weight, torch.randn(17)]
    for tensor in inputs:
        tensor.requires_grad_()
    options = {"bias": inputs[2], "softcap": 2.0, "temperature": 0.7, "held": chunk}
    values = logprobs(hidden, weight, target, **options)
    capped = 2 * ((hidden @ weight.T + inputs[2]) / 2).tanh()
    plain = (capped / 0.7).log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert torch.allclose(values, plain, atol=1e-6)
    slopes = torch.randn(13)
    fast, slow = (torch.autograd.grad(v, inputs, slopes) for v in (values, plain))
    for one, two in zip(fast, slow, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_a_tied_head_gets_the_gradient_of_both_uses() -> None:
    _, weight, target = make()
    weight.requires_grad_()
    read = torch.randint(17, (13,))
    tied = torch.autograd.grad(logprobs(weight[read], weight, target).sum(), weight)[0]
    plain = (weight[read] @ weight.T).log_softmax(-1).gather(1, target[:, None]).sum()
    assert torch.allclose(tied, torch.autograd.grad(plain, weight)[0], atol=1e-5)


def test_greedy_is_the_most_likely_token() -> None:
    hidden, weight, target = make()
    target[::2] = (hidden @ weight.T).argmax(-1)[::2]
    values, greedy = OutputLayer(weight).logprobs_and_greedy(hidden, target)
    assert greedy.tolist() == ((hidden @ weight.T).argmax(-1) == target).tolist()
    assert torch.allclose(values, logprobs(hidden, weight, target), atol=1e-6)


@pytest.mark.parametrize("chunk", [17, 17 * 5, 10_000])
def test_entropies(chunk: int) -> None:
    hidden, weight, _ = make()
    plain = torch.distributions.Categorical(logits=hidden @ weight.T / 0.7).entropy()
    found = OutputLayer(weight).entropies(hidden, temperature=0.7, held=chunk)
    assert torch.allclose(found, plain, atol=1e-5)
