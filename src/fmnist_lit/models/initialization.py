"""Weight initialization by layer type (report five_models)."""

from collections.abc import Callable

from torch import Tensor, nn

# Each fills a weight in place; the second argument is the standard deviation that "normal" uses.
SCHEMES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda weight, std: nn.init.normal_(weight, std=std),
    "xavier_uniform": lambda weight, std: nn.init.xavier_uniform_(weight),
    "xavier_normal": lambda weight, std: nn.init.xavier_normal_(weight),
    # The gain of ReLU; that of a LeakyReLU with slope 0.01 is the same to four digits.
    "he_uniform": lambda weight, std: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "he_normal": lambda weight, std: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}


def initialize(model: nn.Module, linear: str, conv: str, std: float) -> None:
    """Draw the weights of Linear and Conv2d layers anew and set their biases to zero.

    Args:
        linear: scheme for Linear layers: a name in SCHEMES, or "default" to leave them as PyTorch drew them.
        conv: the same for Conv2d layers.
        std: standard deviation of "normal".
    """
    for layer in model.modules():
        scheme = {nn.Linear: linear, nn.Conv2d: conv}.get(type(layer), "default")
        if scheme == "default":
            continue
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        SCHEMES[scheme](layer.weight, std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
