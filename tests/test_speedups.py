"""What prepare does to a network: equality with PyTorch's own layers, and when it must leave all to them."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmnist_lit.models import speedups
from fmnist_lit.models.cnn import CNNC
from fmnist_lit.models.compute import training_flop
from fmnist_lit.models.initialization import SCHEMES, initialize
from fmnist_lit.models.layer_table import layer_table
from fmnist_lit.models.lenet import LeNet
from fmnist_lit.models.mlp import MLP
from fmnist_lit.models.speedups import prepare


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace all layers, also those that are replaced on some processors only."""
    monkeypatch.setattr(speedups, "mkl_is_fast", lambda: False)


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return a layer and its faster twin."""
    fast = prepare(copy.deepcopy(layer))
    assert type(fast) is not type(layer)
    return layer, fast


def outcome(layer: nn.Module, images: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return all that a layer gives: output, gradients, and what it remembers."""
    images = images.detach().clone().requires_grad_()
    layer.zero_grad()
    output = layer(images)
    output.backward(gradient)
    assert images.grad is not None
    gradients = {name: weight.grad for name, weight in layer.named_parameters()}
    return {"output": output, "images": images.grad, **gradients, **dict(layer.named_buffers())}


def spied(monkeypatch: pytest.MonkeyPatch, function: Any) -> list[int]:
    """Note each call of the faster code of an autograd function."""
    calls: list[int] = []
    forward = function.forward

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return forward(*arguments)

    monkeypatch.setattr(function, "forward", counted)
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "used"), [(64, 1), (300, 1), (19, 0)])
def test_large_products_are_the_same(n: int, used: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain, fast = pair(nn.Linear(784, 200, bias=bias))
    calls = spied(monkeypatch, speedups.OneDNNProduct)
    images, gradient = torch.randn(n, 784), torch.randn(n, 200)
    expected, ours = outcome(plain, images, gradient), outcome(fast, images, gradient)
    assert len(calls) == used
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert torch.equal(fast.eval()(images), plain.eval()(images)), "evaluation must have the same bits"


def test_the_first_layer_computes_no_gradient_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []
    plain = speedups.product
    monkeypatch.setattr(speedups, "product", lambda *tensors: (products.append(1), plain(*tensors))[1])
    fast = pair(nn.Linear(784, 200))[1]
    fast(torch.randn(64, 784)).sum().backward()  # images that want none
    assert fast.weight.grad is not None
    assert len(products) == 2, "forward, and the gradient of the weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.93])
def test_dropout_keeps_its_chance_and_its_scale(
    p: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.functional, "dropout", None)  # PyTorch's is not asked
    torch.manual_seed(0)
    layer = pair(nn.Dropout(p))[1]
    images = (torch.rand(1001, 333) + 1).to(dtype)
    results = outcome(layer, images, torch.full_like(images, 2.0))
    kept = results["output"] != 0
    n = images.numel()
    assert kept.sum().item() == pytest.approx(n * (1 - p), abs=5 * math.sqrt(n * p * (1 - p)))
    torch.testing.assert_close(results["output"], torch.where(kept, images / (1 - p), 0.0))
    torch.testing.assert_close(results["images"], (kept * (2 / (1 - p))).to(dtype))


def test_elements_are_dropped_independently_of_each_other() -> None:
    torch.manual_seed(0)
    layer = prepare(nn.Dropout(0.3))
    kept = (layer(torch.ones(100_000)) != 0).double() - 0.7
    deviation = 0.3 * 0.7 / math.sqrt(len(kept))  # of the mean product of two of them
    for distance in (1, 2, 3, 4, 5, 8, 64):  # four are cut from one random number
        assert abs((kept[distance:] * kept[:-distance]).mean().item()) < 5 * deviation, distance


def test_dropout_draws_anew_each_time_and_the_same_from_a_seed() -> None:
    layer, images = prepare(nn.Dropout(0.5)), torch.ones(4, 25)
    torch.manual_seed(0)
    first, second = layer(images), layer(images)
    torch.manual_seed(0)
    assert torch.equal(layer(images), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0, 0.4])
def test_dropout_at_its_ends_and_in_evaluation_is_the_plain_one(p: float) -> None:
    images = torch.rand(50, 60)
    plain, fast = pair(nn.Dropout(p))
    if p == 0.4:
        plain, fast = plain.eval(), fast.eval()
    assert torch.equal(plain(images), fast(images))


@pytest.mark.parametrize(
    ("channels", "threads"), [(2, 1), (3, 1), (4, 1), (7, 1), (4, 2), (8, 2), (20, 2), (31, 2)]
)
@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_narrow_normalization_is_the_same(
    n: int, channels: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    plain, fast = pair(nn.BatchNorm2d(channels))
    for layer in (plain, fast):
        torch.manual_seed(1)
        nn.init.normal_(layer.weight)  # some below zero
        nn.init.normal_(layer.bias)
    calls = spied(monkeypatch, speedups.NarrowNormalization)
    for _ in range(2):  # the second time, running means are no longer those of the start
        images = (3 * torch.randn(n, channels, 13, 7) + 5).to(memory_format=torch.channels_last)
        gradient = torch.randn(n, channels, 13, 7)
        expected = outcome(plain.double(), images.double(), gradient.double())
        for name, ours in outcome(fast, images, gradient).items():
            torch.testing.assert_close(ours, expected[name].to(ours.dtype), rtol=1e-4, atol=2e-4, msg=name)
    assert len(calls) == 2
    plain.float().load_state_dict(fast.state_dict())
    assert torch.equal(fast.eval()(images), plain.eval()(images)), "evaluation must have the same bits"


def test_one_number_a_channel_cannot_be_normalized() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        prepare(nn.BatchNorm2d(4))(torch.ones(1, 4, 1, 1))


@pytest.mark.parametrize("channels", [1, 16, 32, 40])
def test_with_several_threads_pytorch_normalizes_what_it_is_fast_at(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    calls = spied(monkeypatch, speedups.NarrowNormalization)
    prepare(nn.BatchNorm2d(channels))(torch.randn(3, channels, 5, 5).to(memory_format=torch.channels_last))
    assert not calls


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(4, momentum=None), (3, 4, 5, 5)),  # a mean of all batches
        (nn.BatchNorm2d(4, track_running_stats=False), (3, 4, 5, 5)),
        (nn.BatchNorm2d(4, affine=False), (3, 4, 5, 5)),
        (nn.BatchNorm2d(1), (3, 1, 5, 5)),
        (nn.BatchNorm2d(8), (3, 8, 5, 5)),
        (nn.Linear(784, 200), (2, 100, 784)),
    ],
)
def test_what_faster_code_does_not_do_is_left_to_pytorch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    plain, fast = pair(layer)
    images = torch.randn(shape)
    if len(shape) == 4:
        images = images.to(memory_format=torch.channels_last)
    assert torch.equal(fast(images), plain(images))
    for name, value in plain.named_buffers():
        assert torch.equal(fast.get_buffer(name), value)


@pytest.mark.parametrize("layer", [nn.Linear(784, 200), nn.BatchNorm2d(4)])
def test_other_precisions_are_left_to_pytorch(layer: nn.Module) -> None:
    plain, fast = pair(layer)
    shape = (64, 784) if isinstance(layer, nn.Linear) else (8, 4, 7, 7)
    images = torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(images), plain(images))
    assert torch.equal(fast.double()(images.double()), plain.double()(images.double()))


def test_only_plain_layers_are_replaced() -> None:
    """A class of somebody's own, or one already replaced, stays what it is."""

    class Own(nn.Linear):
        pass

    assert type(prepare(Own(3, 4))) is Own
    fast = prepare(nn.Linear(3, 4))
    assert type(prepare(fast)) is speedups.Linear


def test_where_mkl_is_fast_linear_layers_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedups, "mkl_is_fast", lambda: True)
    assert type(prepare(nn.Linear(3, 4))) is nn.Linear


@pytest.mark.parametrize("hidden", ["operator", "namespace", "library"])
def test_without_the_private_operator_a_linear_layer_is_pytorchs(
    hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fast = pair(nn.Linear(784, 200))
    if hidden == "operator":
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    elif hidden == "namespace":
        monkeypatch.setattr(torch.ops, "mkldnn", None)
    else:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    images, gradient = torch.randn(64, 784), torch.randn(64, 200)
    expected = outcome(plain, images, gradient)
    for name, ours in outcome(fast, images, gradient).items():
        assert torch.equal(ours, expected[name]), name


@pytest.mark.parametrize("loss", [torch.sum, lambda output: output.pow(2).sum()], ids=["linear", "square"])
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(784, 200), (64, 784)), (nn.BatchNorm2d(4), (8, 4, 7, 7))]
)
def test_second_derivatives_are_refused_not_wrong(
    layer: nn.Module, shape: tuple[int, ...], loss: Callable[[Tensor], Tensor]
) -> None:
    plain, fast = pair(layer)
    images = torch.randn(shape)
    if len(shape) == 4:
        images = images.to(memory_format=torch.channels_last)
    images.requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss(fast(images)), [images], create_graph=True)
    torch.autograd.grad(loss(fast(images)), [images], retain_graph=True)
    for right in (plain, fast.eval()):  # PyTorch's own code has them
        torch.autograd.grad(loss(right(images)), [images], create_graph=True)


def test_a_frozen_weight_gets_no_gradient() -> None:
    fast = pair(nn.Linear(784, 200))[1]
    fast.weight.requires_grad_(False)
    images = torch.randn(64, 784, requires_grad=True)
    fast(images).sum().backward()
    assert fast.weight.grad is None
    assert fast.bias.grad is not None
    torch.testing.assert_close(images.grad, fast.weight.sum(0).expand(64, -1))


def test_pooling_comes_before_the_activation_where_that_is_the_same() -> None:
    kinds = [type(layer).__name__ for layer in prepare(CNNC()).features]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
    average = [type(layer).__name__ for layer in prepare(LeNet()).features]
    assert average == ["Conv2d", "ReLU", "AvgPool2d", "Conv2d", "ReLU", "AvgPool2d"]
    for layer in (nn.GELU(), nn.LeakyReLU(-0.5), nn.Hardswish()):  # these fall somewhere
        assert type(prepare(nn.Sequential(layer, nn.MaxPool2d(2)))[1]) is nn.MaxPool2d


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", [CNNC, lambda: MLP([30, 20])], ids=["cnn_c", "mlp"])
def test_weights_are_drawn_alike_before_and_after(kind: Callable[[], nn.Module], scheme: str) -> None:
    first, second = kind(), kind()
    second.load_state_dict(first.state_dict())
    linear = "default" if scheme == "identity" else scheme  # which is of convolutions alone
    torch.manual_seed(3)
    initialize(first, linear=linear, conv=scheme, std=0.05)
    prepare(first)
    prepare(second)
    torch.manual_seed(3)
    initialize(second, linear=linear, conv=scheme, std=0.05)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, second.get_parameter(name)), name


def test_a_prepared_network_reads_and_counts_as_the_plain_one() -> None:
    """Its table names PyTorch's layers, and what oneDNN computes is counted too."""
    plain = MLP([500, 250])
    fast = prepare(copy.deepcopy(plain))
    assert layer_table(fast) == layer_table(plain)
    assert training_flop(fast) == training_flop(plain) > 0
    assert training_flop(prepare(CNNC())) == training_flop(CNNC())
