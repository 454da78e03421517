"""The networks, their patching modes and their initialization."""

import math
import re
from typing import Any, get_args

import pytest
import torch
from torch import nn

from fmnist_lit.build import build
from fmnist_lit.models.block_cnn import BlockCNN
from fmnist_lit.models.cnn import CNNB, loss_floor
from fmnist_lit.models.compute import training_flop
from fmnist_lit.models.initialization import SCHEMES, ConvScheme, Scheme, initialize
from fmnist_lit.models.layer_table import layer_table, parameter_count
from fmnist_lit.models.lenet import LeNet
from fmnist_lit.models.mlp import MLP
from fmnist_lit.models.patching import ConcatPatches, PatchEmbedding, SharedMLP, patchify
from fmnist_lit.models.residual import Residual
from fmnist_lit.models.separable import InvertedResidual
from fmnist_lit.models.speedups import prepare
from fmnist_lit.models.wide_resnet import PreActivation, WideResNet
from tests.fixtures import ROOT, unpatchify


def dense(width: int, parameters: int, *more: str) -> list[tuple[str, tuple[int, ...], int]]:
    return [("Linear", (width,), parameters), *((name, (width,), 0) for name in more)]


def block(width: int, side: int, parameters: int) -> list[tuple[str, tuple[int, ...], int]]:
    pooled = (width, -(-side // 2), -(-side // 2))
    return [
        ("Conv2d", (width, side, side), parameters),
        ("BatchNorm2d", (width, side, side), 2 * width),
        *((name, pooled, 0) for name in ("MaxPool2d", "ReLU", "Dropout")),
    ]


def convolution(
    width: int, side: int, parameters: int, activation: str = "ReLU"
) -> list[tuple[str, tuple[int, ...], int]]:
    shape = (width, side, side)
    return [("Conv2d", shape, parameters), ("BatchNorm2d", shape, 2 * width), (activation, shape, 0)]


def widened(inputs: int, width: int, side: int) -> list[tuple[str, tuple[int, ...], int]]:
    """Return the layers between two stages of the separable network."""
    return [
        ("MaxPool2d", (inputs, side, side), 0),
        *convolution(width, side, inputs * width)[:2],
    ]


def inverted_residual(width: int, side: int) -> list[tuple[str, tuple[int, ...], int]]:
    return [
        *convolution(4 * width, side, 4 * width * width, "GELU"),
        *convolution(4 * width, side, 9 * 4 * width, "GELU"),
        *convolution(width, side, 4 * width * width)[:2],
    ]


def pre_activation(
    inputs: int, width: int, side: int, stride: int = 1
) -> list[tuple[str, tuple[int, ...], int]]:
    """Return the layers of a wide residual network's block, in the order in which they are asked."""
    before, after = (inputs, side * stride, side * stride), (width, side, side)
    shortcut = [("Conv2d", after, inputs * width)] if inputs != width else []
    return [
        *(("BatchNorm2d", before, 2 * inputs), ("ReLU", before, 0)),
        *shortcut,
        ("Conv2d", after, 9 * inputs * width),
        *(("BatchNorm2d", after, 2 * width), ("ReLU", after, 0)),
        ("Conv2d", after, 9 * width * width),
    ]


def vgg_stage(widths: list[int], side: int, *parameters: int) -> list[tuple[str, tuple[int, ...], int]]:
    rows: list[tuple[str, tuple[int, ...], int]] = []
    for width, count in zip(widths, parameters, strict=True):
        rows += convolution(width, side, count)
    return [*rows, ("MaxPool2d", (widths[-1], -(-side // 2), -(-side // 2)), 0)]


# The layer tables of reports five_models, batch_size (lenet), grid_search (block_cnn) as printed; VGG11 as in
# its paper but for its last layers; WRN-16-4 as in its paper: type, output shape, parameters.
TABLES = {
    "mlp4": [
        *dense(500, 392_500, "ReLU", "Dropout"),
        *dense(250, 125_250, "ReLU", "Dropout"),
        *dense(250, 62_750, "ReLU", "Dropout"),
        *dense(10, 2_510),
    ],
    "mlp_custom": [
        *dense(900, 706_500, "LeakyReLU", "Dropout"),
        *dense(500, 450_500, "LeakyReLU", "Dropout"),
        *dense(450, 225_450, "LeakyReLU", "Dropout"),
        *dense(250, 112_750, "LeakyReLU", "Dropout"),
        *dense(10, 2_510),
    ],
    "cnn_a": [
        ("Conv2d", (4, 28, 28), 40),
        ("BatchNorm2d", (4, 28, 28), 8),
        ("ReLU", (4, 28, 28), 0),
        ("MaxPool2d", (4, 14, 14), 0),
        ("Conv2d", (4, 14, 14), 148),
        ("BatchNorm2d", (4, 14, 14), 8),
        ("ReLU", (4, 14, 14), 0),
        ("MaxPool2d", (4, 7, 7), 0),
        *dense(10, 1_970),
    ],
    "cnn_b": [
        ("Conv2d", (32, 28, 26), 320),
        ("ReLU", (32, 28, 26), 0),
        ("MaxPool2d", (32, 14, 13), 0),
        *dense(100, 582_500, "ReLU"),
        *dense(10, 1_010, "Softmax"),
    ],
    "cnn_c": [
        ("Conv2d", (32, 28, 26), 320),
        ("ReLU", (32, 28, 26), 0),
        ("MaxPool2d", (32, 14, 13), 0),
        ("Conv2d", (4, 14, 13), 1_156),
        ("BatchNorm2d", (4, 14, 13), 8),
        ("ReLU", (4, 14, 13), 0),
        ("MaxPool2d", (4, 7, 6), 0),
        *dense(100, 16_900, "LeakyReLU", "Dropout"),
        *dense(150, 15_150, "LeakyReLU", "Dropout"),
        *dense(10, 1_510),
    ],
    "mlp": [*dense(768, 602_880, "ReLU", "Dropout"), *dense(10, 7_690)],
    "lenet": [
        ("Conv2d", (6, 28, 28), 156),
        ("ReLU", (6, 28, 28), 0),
        ("AvgPool2d", (6, 14, 14), 0),
        ("Conv2d", (16, 10, 10), 2_416),
        ("ReLU", (16, 10, 10), 0),
        ("AvgPool2d", (16, 5, 5), 0),
        *dense(120, 48_120, "ReLU"),
        *dense(84, 10_164, "ReLU"),
        *dense(10, 850, "Softmax"),
    ],
    "block_cnn": [
        *block(128, 28, 1_280),
        *block(256, 14, 295_168),
        *block(512, 7, 1_180_160),
        *dense(10, 81_930),
    ],
    "residual": [
        *convolution(20, 28, 180, "GELU"),
        ("MaxPool2d", (20, 14, 14), 0),
        *convolution(48, 14, 8_640, "GELU"),
        *convolution(48, 14, 20_736, "GELU"),
        ("MaxPool2d", (48, 7, 7), 0),
        *convolution(96, 7, 41_472, "GELU"),
        *convolution(96, 7, 82_944, "GELU"),
        ("MaxPool2d", (96, 3, 3), 0),
        *convolution(160, 3, 138_240, "GELU"),
        *convolution(160, 3, 230_400, "GELU"),
        ("MaxAndMean", (320,), 0),
        *dense(10, 3_210),
    ],
    "separable": [
        *convolution(16, 28, 144, "GELU"),
        *inverted_residual(16, 28),
        *widened(16, 32, 14),
        *inverted_residual(32, 14) * 3,
        *widened(32, 64, 7),
        *inverted_residual(64, 7) * 3,
        *widened(64, 128, 3),
        *inverted_residual(128, 3),
        ("MaxAndMean", (256,), 0),
        *dense(10, 2_570),
    ],
    "wide_resnet": [
        ("Conv2d", (16, 28, 28), 144),
        *pre_activation(16, 64, 28),
        *pre_activation(64, 64, 28),
        *pre_activation(64, 128, 14, stride=2),
        *pre_activation(128, 128, 14),
        *pre_activation(128, 256, 7, stride=2),
        *pre_activation(256, 256, 7),
        *(("BatchNorm2d", (256, 7, 7), 512), ("ReLU", (256, 7, 7), 0)),
        *(("AdaptiveAvgPool2d", (256, 1, 1), 0), ("Flatten", (256,), 0)),
        *dense(10, 2_570),
    ],
    "vgg11": [
        *vgg_stage([64], 28, 640),
        *vgg_stage([128], 14, 73_856),
        *vgg_stage([256, 256], 7, 295_168, 590_080),
        *vgg_stage([512, 512], 4, 1_180_160, 2_359_808),
        *vgg_stage([512, 512], 2, 2_359_808, 2_359_808),
        *dense(512, 262_656, "ReLU", "Dropout"),
        *dense(512, 262_656, "ReLU", "Dropout"),
        *dense(10, 5_130),
    ],
}
PARAMETERS = {
    "mlp4": 583_010,
    "mlp_custom": 1_497_710,
    "cnn_a": 2_174,
    "cnn_b": 583_830,
    "cnn_c": 35_044,
    "mlp": 610_570,
    "lenet": 61_706,
    "block_cnn": 1_560_330,
    "residual": 527_078,
    "separable": 293_274,
    "wide_resnet": 2_748_602,
    "vgg11": 9_755_274,
}


# Every option, whether it has a table or not: a model that is added needs none.
MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("[!_]*.yaml"))


@pytest.mark.parametrize("name", TABLES)
def test_layers_are_those_of_the_report(name: str, composed: Any) -> None:
    model = build(composed(f"model={name}")["model"], "model")
    assert [tuple(row) for row in layer_table(model)] == TABLES[name]
    assert parameter_count(model) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_maps_images_to_ten_numbers_and_trains_whole(name: str, composed: Any) -> None:
    torch.manual_seed(0)
    model = build(composed(f"model={name}")["model"], "model")
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    output = model(images)
    assert output.shape == (4, 10)
    loss = nn.functional.cross_entropy(output, labels)
    assert loss.isfinite()
    loss.backward()
    for weight_name, weight in model.named_parameters():
        assert weight.grad is not None, f"{weight_name} takes no part"
        assert weight.grad.isfinite().all(), weight_name
    assert getattr(model, "loss_floor", 0.0) >= 0
    one = model.eval()(images[:1])
    torch.testing.assert_close(one, model(images)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_header_of_a_model_counts_its_parameters(name: str, composed: Any) -> None:
    model = build(composed(f"model={name}")["model"], "model")
    said = re.findall(r"([\d,]+) parameters", (ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    assert said in ([f"{parameter_count(model):,}"], []), "the header of its YAML counts wrongly"


def test_a_squeezed_block_weighs_what_its_convolution_adds() -> None:
    torch.manual_seed(0)
    plain, squeezed = Residual(16, "relu"), Residual(16, "relu", squeeze=8)
    assert parameter_count(squeezed) - parameter_count(plain) == 16 * 2 + 2 + 2 * 16 + 16
    squeezed.load_state_dict(plain.state_dict(), strict=False)
    features = torch.rand(4, 16, 7, 7)
    added = plain(features) - features
    last = squeezed.convolution[-1].weigh[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.linspace(-2, 2, 16))  # a weight of its own for each channel
    expected = features + added * torch.linspace(-2, 2, 16).sigmoid().view(16, 1, 1)
    torch.testing.assert_close(squeezed(features), expected)
    last.weight.data.normal_()
    means = added.mean((2, 3))
    torch.testing.assert_close(
        squeezed(features) - features,
        added * squeezed.convolution[-1].weigh(means).view(4, 16, 1, 1),
        msg="the weights are those of each image's own means",
    )


@pytest.mark.parametrize(
    ("depth", "widen_factor", "millions"), [(40, 1, 0.6), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)]
)
def test_a_wide_residual_network_has_its_papers_parameters(
    depth: int, widen_factor: int, millions: float
) -> None:
    """Table 4 of the paper, for three channels: 288 weights more."""
    with torch.device("meta"):
        model = WideResNet(depth, widen_factor)
    assert round((parameter_count(model) + 288) / 1e6, 1) == millions
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions(model)) == depth - 3


@pytest.mark.parametrize("depth", [4, 9, 11, 30])
def test_a_wide_residual_network_of_another_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} must be 6n \\+ 4: 10, 16"):
        WideResNet(depth, 1)


def test_a_block_adds_to_its_input_or_to_a_projection_of_it() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 6, 6)
    for block, kept in ((PreActivation(4, 4, 1), features), (PreActivation(4, 8, 2), None)):
        nn.init.zeros_(block.convolutions[-1].weight)
        expected = block.shortcut(block.activated(features)) if kept is None else kept
        torch.testing.assert_close(block(features), expected)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("kind", [CNNB, LeNet])
def test_softmax_head_gives_probabilities_and_a_floor(kind: type[CNNB | LeNet]) -> None:
    torch.manual_seed(0)
    model, images = kind(head="softmax"), torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(model(images).sum(1), torch.ones(4))
    assert round(loss_floor("softmax", 10), 4) == 1.4612
    perfect = nn.functional.cross_entropy(torch.eye(10), torch.arange(10))
    assert perfect.item() == pytest.approx(model.loss_floor)

    corrected = kind(head="logits")
    corrected.load_state_dict(model.state_dict())
    torch.testing.assert_close(corrected(images).softmax(1), model(images))
    assert corrected.loss_floor == 0


@pytest.mark.parametrize(("depth", "side"), [(1, 14), (2, 7), (3, 4), (4, 2), (5, 1)])
def test_blocks_of_any_depth_round_up(depth: int, side: int) -> None:
    model = BlockCNN(filters=8, depth=depth, batch_norm=False)
    assert model.features(torch.rand(2, 1, 28, 28)).shape == (2, 8 * 2 ** (depth - 1), side, side)
    assert {type(layer) for layer in model.features} == {nn.Conv2d, nn.MaxPool2d, nn.ReLU}


@pytest.mark.parametrize("name", MODELS)
def test_a_prepared_model_gives_the_same_values_and_gradients(name: str, composed: Any) -> None:
    config = composed(f"model={name}", *(["model.activation=leaky_relu"] if name == "block_cnn" else []))
    torch.manual_seed(0)
    plain = build(config["model"], "model").to(memory_format=torch.channels_last)
    fast = prepare(build(config["model"], "model"))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    fast.load_state_dict(plain.state_dict())
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    outputs = []
    for model in (plain, fast):
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # both ways to draw are right, and differ
        outputs.append(model.train()(images))
        nn.functional.cross_entropy(outputs[-1], labels).backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    for name, theirs in plain.named_buffers():
        torch.testing.assert_close(fast.get_buffer(name), theirs, rtol=1e-5, atol=1e-6, msg=name)
    assert torch.equal(fast.eval()(images), reloaded(plain, fast).eval()(images))


def reloaded(plain: nn.Module, trained: nn.Module) -> nn.Module:
    """Give a plain network the weights of another: what it says must be the same bits."""
    plain.load_state_dict(trained.state_dict())
    return plain


def test_computation_is_counted_by_hand() -> None:
    """Two operations a multiply-add; backward for weights and inputs, but for those of the first layer."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    assert training_flop(model) == 2 * (2 * 784 * 50 + 3 * 50 * 10)


def test_computation_of_channels_by_themselves_is_counted_as_such() -> None:
    each = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
    model = nn.Sequential(nn.Conv2d(1, 16, 1, bias=False), each, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert training_flop(model) == 2 * 28 * 28 * (2 * 16 + 3 * 16 * 9)
    back = nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False)  # each of 28 * 28 places gives 2 * 2 new ones
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), back, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert training_flop(model) == 2 * 28 * 28 * (2 * 2 + 3 * 2 * 3 * 4)


def test_an_inverted_residual_adds_to_its_input() -> None:
    torch.manual_seed(0)
    layer, features = InvertedResidual(8, 3, 5, "relu", squeeze=4), torch.rand(4, 8, 7, 7)
    assert parameter_count(layer) == 2 * 8 * 24 + 24 * 25 + 2 * (24 + 24 + 8) + 2 * 24 * 6 + 6 + 24
    last = layer.layers[-1][1]
    with torch.no_grad():
        last.weight.zero_()
    torch.testing.assert_close(layer(features), features)
    with torch.no_grad():
        last.bias.fill_(1.0)
    torch.testing.assert_close(layer(features), features + 1)


def test_dropout_and_slope_reach_the_layers(composed: Any) -> None:
    for name in ("mlp_custom", "cnn_c"):
        model = build(
            composed(f"model={name}", "model.dropout=0.4", "model.negative_slope=0.3")["model"], "model"
        )
        assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.4}
        slopes = {layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)}
        assert slopes == {0.3}


@pytest.mark.parametrize("size", [2, 4, 7, 14])
def test_cutting_can_be_undone(size: int) -> None:
    images = torch.rand(3, 1, 28, 28)
    patches = patchify(images, size)
    assert patches.shape == (3, (28 // size) ** 2, size * size)
    corner = images[1, 0, :size, size : 2 * size]  # the second patch lies to the right of the first
    torch.testing.assert_close(patches[1, 1], corner.flatten(), rtol=0, atol=0)
    torch.testing.assert_close(unpatchify(patches), images, rtol=0, atol=0)


def test_concatenated_patches_are_a_permutation_an_mlp_cannot_notice() -> None:
    images = torch.rand(5, 1, 28, 28)
    plain, patched = MLP([20], dropout=0), MLP([20], dropout=0, patch=ConcatPatches(7))
    order = patchify(torch.arange(784.0).reshape(1, 1, 28, 28), 7).flatten().long()
    weights = plain.state_dict()
    weights["hidden.0.weight"] = weights["hidden.0.weight"][:, order]
    patched.load_state_dict(weights)
    torch.testing.assert_close(patched(images), plain(images))


def test_shared_layers_see_a_patch_at_a_time_and_are_averaged() -> None:
    images = torch.rand(5, 1, 28, 28)
    model = MLP([20, 12], dropout=0, patch=SharedMLP(4))
    features = [model.hidden(patch) for patch in patchify(images, 4).unbind(1)]
    torch.testing.assert_close(model(images), model.output(torch.stack(features).mean(0)))
    assert model.hidden[0].in_features == 16
    moved = unpatchify(patchify(images, 4).flip(1))  # position is lost
    torch.testing.assert_close(model(moved), model(images))


def test_embedding_is_shared_and_keeps_the_position() -> None:
    images = torch.rand(5, 1, 28, 28)
    patch = PatchEmbedding(14, dim=6)
    expected = torch.cat([patch.embedding(piece) for piece in patchify(images, 14).unbind(1)], dim=1)
    torch.testing.assert_close(patch(images), expected)
    assert MLP([20], patch=patch).hidden[0].in_features == 24


def drawn(scheme: str) -> tuple[nn.Linear, nn.Conv2d]:
    torch.manual_seed(0)
    linear, conv = nn.Linear(784, 500), nn.Conv2d(32, 64, 3)
    initialize(nn.ModuleList([linear, conv]), linear=scheme, conv=scheme, std=0.03)
    return linear, conv


# Standard deviations by the formulas of Glorot and Bengio 2010 and He et al. 2015; fans of the convolution:
# 32 * 9 in, 64 * 9 out.
STD = {
    "normal": (0.03, 0.03),
    "xavier_uniform": (math.sqrt(2 / (784 + 500)), math.sqrt(2 / (288 + 576))),
    "xavier_normal": (math.sqrt(2 / (784 + 500)), math.sqrt(2 / (288 + 576))),
    "he_uniform": (math.sqrt(2 / 784), math.sqrt(2 / 288)),
    "he_normal": (math.sqrt(2 / 784), math.sqrt(2 / 288)),
}


@pytest.mark.parametrize("scheme", STD)
def test_initialization_has_its_papers_deviation(scheme: str) -> None:
    for layer, std in zip(drawn(scheme), STD[scheme], strict=True):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert not layer.bias.any()
        bounded = layer.weight.abs().max() <= std * math.sqrt(3) * 1.001
        assert bounded == scheme.endswith("uniform")


def test_initialization_by_layer_type() -> None:
    torch.manual_seed(0)
    linear, conv = nn.Linear(784, 500), nn.Conv2d(32, 64, 3)
    before = linear.weight.clone()
    initialize(nn.ModuleList([linear, conv]), linear="default", conv="he_normal", std=0.03)
    assert torch.equal(linear.weight, before)
    assert linear.bias.any()
    assert conv.weight.std().item() == pytest.approx(STD["he_normal"][1], rel=0.02)


def test_config_knows_the_schemes() -> None:
    assert set(get_args(ConvScheme)) == {"default", *SCHEMES} == {"identity", *get_args(Scheme)}


def test_a_wider_kernel_keeps_the_shapes() -> None:
    """Report grid_search mentions 5x5 as a further try; padding keeps 28, 14, 7, 4."""
    tables = [layer_table(BlockCNN(filters=8, depth=3, kernel=kernel)) for kernel in (3, 5)]
    assert [row.output for row in tables[0]] == [row.output for row in tables[1]]
    (first, wider) = (next(row for row in table if row.layer == "Conv2d") for table in tables)
    assert (first.parameters, wider.parameters) == (8 * 9 + 8, 8 * 25 + 8)
