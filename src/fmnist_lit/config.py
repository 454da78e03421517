"""Checks a composed config before anything is built: every value by itself, then what cannot work together.

Nothing heavy is imported here, so that a mistake is answered at once.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from fmnist_lit.errors import UsageError

PATCH_SIZES = (2, 4, 7, 14)
SCHEMES = ("default", "normal", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal")
MONITORS = ("val_accuracy", "val_loss")


class Rule(NamedTuple):
    """What a value may be: a test, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) != float("inf")


def integer(least: int, step: int = 1) -> Rule:
    """A whole number, at least ``least``."""
    words = f"a whole number, {least} or more" + (f", a multiple of {step}" if step > 1 else "")
    return Rule(lambda v: type(v) is int and v >= least and v % step == 0, words)


def number(low: float, high: float = float("inf"), low_included: bool = True) -> Rule:
    """A number in [low, high), or (low, high) if ``low`` itself is not included."""
    above = f"{low:g} or more" if low_included else f"more than {low:g}"
    words = f"a number, {above}" + (f" and less than {high:g}" if high < float("inf") else "")
    return Rule(lambda v: is_number(v) and (low < v or (low_included and low == v)) and v < high, words)


def one_of(*known: Any) -> Rule:
    """One of some values."""
    return Rule(lambda v: type(v) in map(type, known) and v in known, f"one of {', '.join(map(str, known))}")


def optional(rule: Rule) -> Rule:
    """Null, or what ``rule`` says."""
    return Rule(lambda v: v is None or rule.holds(v), f"{rule.words}; or null")


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list, each element of which is what ``rule`` says."""
    words = f"a list of {length} elements" if length else "a list"
    return Rule(
        lambda v: isinstance(v, list) and (length is None or len(v) == length) and all(map(rule.holds, v)),
        f"{words}, each {rule.words}",
    )


BOOLEAN = Rule(lambda v: isinstance(v, bool), "true or false")
TEXT = Rule(lambda v: isinstance(v, str), "text")
NAME = Rule(lambda v: isinstance(v, str) and v != "", "text, not empty")
POSITIVE = number(0, low_included=False)
SHARE = number(0, 1)

# By key, or by the end of one ("optim.momentum" before "momentum"). A new key needs a row only if its
# values need a check; the tests say so for every key that conf/ ships.
RULES = {
    "_target_": NAME,
    "seed": integer(0),
    "threads": optional(integer(1)),
    "output_dir": NAME,
    # data
    "batch_size": integer(1),
    "eval_batch_size": integer(1),
    "val_fraction": SHARE,
    "split_seed": integer(0),
    "normalization": one_of("standard", "unit", "none"),
    "watch_test": BOOLEAN,
    "limit": optional(integer(10, step=10)),
    "images.folder": NAME,
    "images.source": optional(NAME),
    "images.train": integer(10, step=10),
    "images.test": integer(10, step=10),
    # model
    "hidden": list_of(integer(1)),
    "activation": one_of("relu", "leaky_relu"),
    "negative_slope": number(0),
    "dropout": SHARE,
    "head": one_of("softmax", "logits"),
    "patch.size": Rule(lambda v: v is None or (type(v) is int and v in PATCH_SIZES), "2, 4, 7 or 14"),
    "patch.dim": integer(1),
    # init
    "linear": one_of(*SCHEMES),
    "conv": one_of(*SCHEMES),
    "std": POSITIVE,
    # optim
    "lr": POSITIVE,
    "momentum": SHARE,
    "nesterov": BOOLEAN,
    "amsgrad": BOOLEAN,
    "weight_decay": number(0),
    "betas": list_of(SHARE, length=2),
    "eps": POSITIVE,
    "alpha": SHARE,
    "momentum_decay": number(0),
    # schedule, callbacks
    "monitor": one_of(*MONITORS),
    "factor": number(0, 1, low_included=False),
    "schedule.patience": integer(0),
    "callbacks.patience": optional(integer(1)),
    "cooldown": integer(0),
    "threshold": number(0),
    "min_delta": number(0),
    "min_lr": number(0),
    "warmup": number(0, 1, low_included=False),
    "div_factor": number(1),
    "final_div_factor": number(1),
    # logger
    "logger.tensorboard": optional(NAME),
    "tensorboard.name": NAME,
    "version": TEXT,
    "default_hp_metric": BOOLEAN,
    # trainer, debug
    "accelerator": one_of("auto", "cpu", "gpu"),
    "devices": integer(1),
    "num_nodes": integer(1),
    "strategy": one_of("auto", "ddp"),
    "max_epochs": integer(1),
    "precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "gradient_clip_val": optional(POSITIVE),
    "deterministic": BOOLEAN,
    "limit_train_batches": optional(integer(1)),
    "limit_val_batches": optional(integer(1)),
    "limit_test_batches": optional(integer(1)),
    "loss_within": optional(POSITIVE),
}


def rule_for(key: str) -> Rule | None:
    """Return the rule with the longest name that ``key`` ends in."""
    parts = key.split(".")
    names = (".".join(parts[i:]) for i in range(len(parts)))
    return next((RULES[name] for name in names if name in RULES), None)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List all values of nested mappings with their dotted keys. A list is a value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as plain containers, interpolations resolved, without Hydra's own node."""
    bare = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved config.

    Raises:
        UsageError: the first value or combination that cannot work, and what can.
    """
    for key, value in leaves(config):
        rule = rule_for(key)
        if rule is not None and not rule.holds(value):
            raise UsageError(f"{key}={value}: it must be {rule.words}.")
    for combination in (check_patch, check_validation, check_momentum, check_devices):
        combination(config)


def check_patch(config: Mapping[str, Any]) -> None:
    """A patching mode needs an MLP, and a patch size needs a mode."""
    mode = config["patch"]["_target_"].rpartition(".")[2].lower()
    modes = "patch=concat, patch=shared or patch=embed"
    if mode != "whole" and "patch" not in config["model"]:
        raise UsageError(
            f"patch={mode} needs an MLP: a CNN sees whole images. "
            "Choose model=mlp4 or model=mlp_custom, or patch=none."
        )
    if mode == "whole" and config["patch"]["size"] is not None:
        raise UsageError(f"patch.size={config['patch']['size']} needs a patching mode: {modes}.")
    if mode != "whole" and config["patch"]["size"] is None:
        raise UsageError(f"patch={mode} needs a size: patch.size={'|'.join(map(str, PATCH_SIZES))}.")


def check_validation(config: Mapping[str, Any]) -> None:
    """What looks at validation data needs some."""
    if config["data"]["val_fraction"] > 0:
        return
    remedy = "Set data.val_fraction above 0, or choose"
    if "monitor" in config["schedule"]:
        raise UsageError(
            f"schedule=plateau looks at validation data, and there is none. {remedy} another schedule."
        )
    if config["callbacks"]["patience"] is not None:
        raise UsageError(
            f"early stopping looks at validation data, and there is none. {remedy} callbacks=default."
        )


def check_momentum(config: Mapping[str, Any]) -> None:
    """Nesterov's step is made of the momentum."""
    if config["optim"].get("nesterov") and not config["optim"].get("momentum"):
        raise UsageError("optim.nesterov=true needs optim.momentum above 0.")


def check_devices(config: Mapping[str, Any]) -> None:
    """One device, for now."""
    if config["trainer"]["devices"] > 1 or config["trainer"]["num_nodes"] > 1:
        raise UsageError("training on several devices is not supported yet. Choose trainer=auto, cpu or gpu.")
