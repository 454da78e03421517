"""Learning-rate schedules, each as what Lightning's ``configure_optimizers`` may return beside an optimizer.

``optimizer`` carries the rate of the config's optimizer; ``steps`` is the number of steps of the whole run.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

Schedule = dict[str, Any] | None


def constant(optimizer: Optimizer, steps: int) -> Schedule:
    """Keep the rate."""
    return None


def plateau(
    optimizer: Optimizer,
    steps: int,
    monitor: str,
    factor: float,
    patience: int,
    cooldown: int,
    threshold: float,
    min_lr: float,
) -> Schedule:
    """Cut the rate when ``monitor`` (val_accuracy or val_loss) has not improved for ``patience`` epochs."""
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode="max" if monitor == "val_accuracy" else "min",
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        threshold_mode="abs",
        min_lr=min_lr,
    )
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


def cosine(optimizer: Optimizer, steps: int, min_lr: float) -> Schedule:
    """Follow half a cosine down to ``min_lr`` (Loshchilov and Hutter 2017, without restarts)."""
    return {"scheduler": CosineAnnealingLR(optimizer, T_max=steps, eta_min=min_lr), "interval": "step"}


def onecycle(
    optimizer: Optimizer, steps: int, warmup: float, div_factor: float, final_div_factor: float
) -> Schedule:
    """Climb to the optimizer's rate for ``warmup`` of all steps, then fall (Smith and Topin 2018)."""
    scheduler = OneCycleLR(
        optimizer,
        max_lr=optimizer.param_groups[0]["lr"],
        total_steps=steps,
        # OneCycleLR divides by the steps on the way up less one.
        pct_start=warmup + 1e-6 if warmup * steps == 1 else warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,  # RMSProp and plain SGD have none to cycle
    )
    return {"scheduler": scheduler, "interval": "step"}
