"""What champions are made of: images, steps and weights that are other than the usual ones."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from fmnist_lit.data.augment import Cutout
from fmnist_lit.errors import UsageError
from fmnist_lit.ingredients import HardPart, training_batches, whitening_filters
from fmnist_lit.models.compute import evaluation_flop, training_flop
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.mlp import MLP
from fmnist_lit.optimizers import Muon, orthogonal

STEM = ("model=residual", "model.stem=18", "model.widths=[4]", "model.blocks=[0]")
INGREDIENT = "fmnist_lit.ingredients"


class Seen(L.Callback):
    """Notes the images that each epoch is made of, in their own order and in the epoch's."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []
        self.orders: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note them."""
        if batch_idx == 0:
            batches = training_batches(trainer)
            order = batches.order()
            assert order is not None
            self.images.append(batches.images)
            self.orders.append(order)


def test_whitened_patches_are_uncorrelated() -> None:
    images = torch.randn(50, 1, 28, 28).cumsum(2).cumsum(3)  # of correlated pixels
    filters = whitening_filters(images, 3, eps=0.0)
    outputs = nn.functional.conv2d(images, filters).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs.cov(), torch.eye(9), atol=1e-2, rtol=0)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    return weights


def test_a_whitened_stem_has_both_signs_and_stays(trained: Any) -> None:
    first, _ = trained(*STEM, "callbacks=whitened_stem", "trainer.max_epochs=1")
    second, metrics = trained(*STEM, "callbacks=whitened_stem", "trainer.max_epochs=2", "seed=1")
    stems = [next(w for w in weights_of(run).values() if w.shape == (18, 1, 3, 3)) for run in (first, second)]
    assert torch.equal(stems[0], stems[1])
    assert torch.equal(stems[0][:9], -stems[0][9:])
    plain = trained(*STEM, "trainer.max_epochs=1")[1]
    assert metrics["parameters"] == plain["parameters"] - 162


def test_a_whitened_stem_says_how_many_channels_it_needs(trained: Any) -> None:
    with pytest.raises(UsageError, match=r"needs 18 channels in the first convolution.*it has 20"):
        trained("model=residual", "callbacks=whitened_stem")


def test_a_whitened_stem_needs_a_convolution(trained: Any) -> None:
    with pytest.raises(UsageError, match="needs a convolution of the images, and the model has none"):
        trained("model=mlp4", "callbacks=whitened_stem")


def test_fast_biases_move_faster_and_scales_stay(trained: Any) -> None:
    common = (*STEM, "trainer.max_epochs=1", "data.batch_size=160", "optim.momentum=0")  # one step
    slow, fast = (weights_of(trained(*common, *further)[0]) for further in ((), ("callbacks=fast_biases",)))
    scales = [name for name, weight in slow.items() if weight.dim() == 1 and name.endswith("weight")]
    assert scales
    for name in scales:
        assert (fast[name] == 1).all()
        assert not torch.equal(slow[name], fast[name])
        bias = name.replace("weight", "bias")
        torch.testing.assert_close(fast[bias], 16 * slow[bias])


def test_fast_biases_need_steps_of_sgd(trained: Any) -> None:
    with pytest.raises(UsageError, match="Adam sizes them itself"):
        trained(*STEM, "callbacks=fast_biases", "optim=adam")


def test_every_image_is_seen_from_both_sides_in_two_epochs(trained: Any) -> None:
    seen = Seen()
    trained(*STEM, "callbacks=alternating_flip", "trainer.max_epochs=4", callbacks=[seen])
    first, second, third, _ = seen.images
    assert torch.equal(first, second.flip(2))
    assert torch.equal(first, third)
    symmetric = (first == first.flip(2)).flatten(1).all(1)
    assert not symmetric.all()


def test_the_hard_part_alone_is_trained_on_after_a_while(trained: Any) -> None:
    seen = Seen()
    hard = ("callbacks=hard_part", "callbacks.hard_part.after=0.5", "callbacks.hard_part.noise=0.1")
    _, metrics = trained("model=mlp4", *hard, "trainer.max_epochs=4", "optim.lr=0.05", callbacks=[seen])
    plain = trained("model=mlp4", "trainer.max_epochs=4", "optim.lr=0.05")[1]
    lengths = [len(order.unique()) for order in seen.orders]
    assert lengths == [160, 160, 64, 64]
    assert [len(order) for order in seen.orders] == [160] * 4
    assert (seen.orders[2].bincount(minlength=160).max()) == 3  # 160 of 64: twice or thrice
    assert not torch.equal(seen.orders[2], seen.orders[3])
    network = MLP([500, 250, 250])
    asked = evaluation_flop(network) / training_flop(network)
    assert metrics["training_tflop"] / plain["training_tflop"] == pytest.approx(1 + asked / 4)


def test_images_are_small_first_and_take_less_computation(trained: Any) -> None:
    """By hand: a convolution at half the side costs a quarter; the last layer the same."""
    sides = []

    class Sides(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, index: int) -> None:
            sides.append(batch[0].shape[2])

    small = ("callbacks=low_resolution_first", "callbacks.low_resolution_first.side=14")
    common = (*STEM, "data.batch_size=160", "trainer.max_epochs=3")
    _, metrics = trained(*common, *small, callbacks=[Sides()])
    _, plain = trained(*common)
    assert sides == [14, 14, 28]
    convolutions, last = 3 * 2 * (28**2 * 9 * 18 + 14**2 * 9 * 18 * 4) - 2 * 28**2 * 9 * 18, 3 * 2 * 8 * 10
    assert plain["training_tflop"] * 1e12 == pytest.approx(480 * (convolutions + last))
    assert metrics["training_tflop"] * 1e12 == pytest.approx(160 * convolutions * 1.5 + 480 * last)
    _, half = trained(*common, *small, "data.batch_size=80", "trainer.limit_train_batches=1")
    assert half["training_tflop"] == pytest.approx(metrics["training_tflop"] / 2)


def test_a_model_of_one_size_alone_sees_no_small_images(trained: Any) -> None:
    with pytest.raises(UsageError, match=r"needs a model that takes images of 20x20 pixels"):
        trained("model=mlp4", "callbacks=low_resolution_first")


def test_what_leaves_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="leave no image"):
        HardPart(0.5, easiest=0.6, noise=0.4)


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_an_orthogonal_step_keeps_directions_alone(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1, 0.05, len(values))
    found = left.T @ orthogonal(left * values @ right) @ right.T
    assert (found.diag() - 1).abs().max() < 0.5
    torch.testing.assert_close(found, found.diag().diag(), atol=1e-3, rtol=0)


def test_all_but_filters_take_the_steps_of_sgd() -> None:
    ours, torchs = (nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2))
    torchs.load_state_dict(ours.state_dict())
    muon = Muon(ours.parameters(), lr=0.5, others_lr=0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD(torchs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(5):
        images = torch.randn(4, 5)
        for model, optimizer in ((ours, muon), (torchs, sgd)):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_step_of_filters_has_the_size_of_the_rate() -> None:
    layer = nn.Conv2d(4, 16, 3, bias=False)
    before = layer.weight.detach().clone()
    muon = Muon(layer.parameters(), lr=0.1, others_lr=1.0)
    layer(torch.randn(2, 4, 9, 9)).square().sum().backward()
    muon.step()
    sizes = torch.linalg.svdvals((layer.weight.detach() - before).flatten(1)) / 0.1
    assert (sizes - 1).abs().max() < 0.5
    assert muon.step_flop == 5 * (4 * 16 * 16 * 36 + 2 * 16**3)


def test_an_identity_hands_on_what_it_gets() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    initialize(layer, linear="default", conv="identity", std=1.0)
    images = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(layer(images)[:, :3], images)
    assert layer.weight[3:].std() > 0


def test_a_cutout_is_a_square_somewhere() -> None:
    images = torch.full((500, 28, 28), 9, dtype=torch.uint8)
    cut, _ = Cutout(8)(images, torch.zeros(500), torch.Generator().manual_seed(0))
    black = (cut == 0).flatten(1).sum(1)
    assert black.max() == 64
    assert (black >= 16).all()  # a quarter is inside, if the centre is
    assert ((cut == 0).float().mean(0) > 0).all()
