"""Every option composes, every pair of options is accepted or refused for a reason, every key is checked."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from fmnist_lit.build import TARGETS, build
from fmnist_lit.config import RULES, check, leaves
from fmnist_lit.errors import UsageError
from fmnist_lit.run import build_classifier

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    folder.name: sorted(
        str(path.relative_to(folder).with_suffix(""))
        for path in folder.rglob("*.yaml")
        if not path.stem.startswith("_")  # a base that others share
    )
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "hydra"
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
Job = dict[str, str]


# Pairs of options that cannot work together, and the fault that the refusal must name.
REFUSED = {
    **{
        (("model", model), ("patch", patch)): "needs an MLP"
        for model in GROUPS["model"]
        if not model.startswith("mlp")
        for patch in ("concat", "shared", "embed")
    },
    (("debug", "overfit"), ("schedule", "plateau")): "looks at validation data",
    (("callbacks", "early_stopping"), ("debug", "overfit")): "looks at validation data",
}
Option = tuple[str, str]


def is_allowed(job: Job) -> bool:
    return not any(set(pair) <= set(job.items()) for pair in REFUSED)


def allowed_pairs() -> set[frozenset[Option]]:
    """Pair every option with every one of another group, but for what is refused (and trainer=ddp).

    An experiment is left out: it is a choice of all groups already.
    """
    options = [option for option in OPTIONS if option != ("trainer", "ddp") and option[0] != "experiment"]
    pairs = (pair for pair in combinations(options, 2) if pair[0][0] != pair[1][0])
    return {frozenset(pair) for pair in pairs if is_allowed(dict(pair))}


def pairwise_jobs() -> list[Job]:
    """Choose allowed jobs, greedily, until every allowed pair of options is in one of them."""
    left, jobs = allowed_pairs(), []
    while left:
        job: Job = dict(min(map(sorted, left)))
        for group in GROUPS:
            if group in job or group == "experiment":
                continue
            options = [
                o for o in GROUPS[group] if (group, o) != ("trainer", "ddp") and is_allowed(job | {group: o})
            ]
            job[group] = max(
                options, key=lambda o: sum(frozenset([(group, o), i]) in left for i in job.items())
            )
        left -= {frozenset(pair) for pair in combinations(job.items(), 2)}
        jobs.append(job)
    return jobs


FIVE_MODELS = ("mlp4", "mlp4_patched", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")


def test_all_groups_and_options_are_there() -> None:
    promised = {
        "model": {"mlp4", "mlp_custom", "cnn_a", "cnn_b", "cnn_c"},
        "patch": {"none", "concat", "shared", "embed"},
        "init": {
            "default",
            "normal",
            "layerwise",
            "xavier_uniform",
            "xavier_normal",
            "he_uniform",
            "he_normal",
        },
        "optim": {"sgd", "nesterov", "adam", "nadam", "amsgrad", "rmsprop", "adamw"},
        "schedule": {"constant", "plateau", "cosine", "onecycle"},
        "data": {"fashion_mnist", "synthetic"},
        "trainer": {"auto", "cpu", "gpu", "ddp"},
        "logger": {"tensorboard", "none"},
        "callbacks": {"default", "early_stopping"},
        "debug": {"none", "fast", "overfit"},
        "experiment": {
            "none",
            *(f"five_models/{row}" for row in FIVE_MODELS),
        },
    }
    assert promised.keys() == GROUPS.keys()
    for group, options in promised.items():
        assert options <= set(GROUPS[group])


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_every_option_composes_and_every_key_of_it_has_a_rule(group: str, option: str, composed: Any) -> None:
    mlp = ["model=mlp4"] if group == "patch" else []
    config = composed(f"{group}={option}", *mlp)
    for key, value in leaves(config):
        assert key.startswith("model.patch.") or key in RULES, f"config.RULES has no row for {key}"
        if key.endswith("_target_"):
            assert value in TARGETS
    if (group, option) != ("trainer", "ddp"):
        check(config)


def test_every_pair_of_options_builds(composed: Any) -> None:
    jobs = pairwise_jobs()
    covered = {frozenset(pair) for job in jobs for pair in combinations(job.items(), 2)}
    assert allowed_pairs() <= covered
    for job in jobs:
        config = composed(*(f"{group}={option}" for group, option in job.items()))
        check(config)
        classifier = build_classifier(config)
        optimizer = classifier.make_optimizer(classifier.model.parameters())
        classifier.make_schedule(optimizer, 100)
        assert classifier.model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("pair", REFUSED, ids=str)
def test_pairs_that_cannot_work_are_refused(pair: tuple[Option, Option], composed: Any) -> None:
    with pytest.raises(UsageError, match=REFUSED[pair]):
        check(composed(*(f"{group}={option}" for group, option in pair)))


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"amsgrad": False}),
    "nadam": (torch.optim.NAdam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_what_their_names_say(name: str, composed: Any) -> None:
    kind, settings = OPTIMIZERS[name]
    optimizer = build(
        composed(f"optim={name}", "optim.lr=0.125")["optim"], [torch.nn.Parameter(torch.ones(1))]
    )
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.125
    assert settings.items() <= optimizer.defaults.items()


# The fault on the command line, and what the message must name.
FAULTS = {
    "patch.size=5": ["patch.size=5", "2, 4, 7 or 14"],
    "model=mlp4 patch=shared patch.size=5": ["patch.size=5", "2, 4, 7 or 14"],
    "model=mlp4 patch=shared patch.size=null": ["patch=shared", "2|4|7|14"],
    "model=mlp4 patch.size=7": ["patch.size=7", "patch=concat"],
    "model=cnn_a patch=embed": ["patch=embed", "mlp4", "mlp_custom"],
    "model=mlp4 model.activation=tanh": ["model.activation=tanh", "relu, leaky_relu"],
    "model=mlp4 model.hidden=500": ["model.hidden=500", "a list"],
    "model=mlp4 model.hidden=[500,0]": ["model.hidden", "1 or more"],
    "model=cnn_b model.head=sigmoid": ["model.head=sigmoid", "softmax, logits"],
    "model.dropout=1": ["model.dropout=1", "less than 1"],
    "trainer.max_epochs=-3": ["trainer.max_epochs=-3", "1 or more"],
    "trainer.max_epochs=2.5": ["trainer.max_epochs=2.5", "whole number"],
    "trainer.max_epochs=true": ["trainer.max_epochs=True", "whole number"],
    "trainer=ddp": ["several devices", "trainer=auto"],
    "data.val_fraction=1.5": ["data.val_fraction=1.5", "less than 1"],
    "data.val_fraction=some": ["data.val_fraction=some", "a number"],
    "data.normalization=standart": ["data.normalization=standart", "standard, unit, none"],
    "data.limit=15": ["data.limit=15", "multiple of 10"],
    "data.val_fraction=0 schedule=plateau": ["schedule=plateau", "data.val_fraction"],
    "data.val_fraction=0 callbacks=early_stopping": ["early stopping", "data.val_fraction"],
    "callbacks.monitor=test_accuracy": ["callbacks.monitor=test_accuracy", "val_accuracy, val_loss"],
    "optim.lr=0": ["optim.lr=0", "more than 0"],
    "optim.lr=.nan": ["optim.lr", "more than 0"],
    "optim.lr=inf": ["optim.lr=inf", "more than 0"],
    "optim=nesterov optim.momentum=0": ["optim.nesterov", "optim.momentum"],
    "optim=adam optim.betas=[0.9]": ["optim.betas=[0.9]", "2 elements"],
    "init.linear=xavier": ["init.linear=xavier", "xavier_uniform"],
    "trainer.strategy=ddp": ["several devices"],
    "optim._target_=os.system": ["optim._target_=os.system", "target"],
    "+foo=1": ["foo", "no such key"],
    "+optim.momentun=0.8": ["optim.momentun", "Did you mean momentum?"],
    "+trainer.check_val_every_n_epoch=2": ["trainer.check_val_every_n_epoch", "max_epochs"],
    "+init.foo=1": ["init.foo", "linear"],
    "~model": ["model"],
    "~data.val_fraction": ["data.val_fraction", "missing"],
    "~optim.lr": ["optim.lr", "missing"],
    "schedule=cosine schedule.min_lr=1": ["schedule.min_lr=1", "optim.lr=0.01"],
    "seed=4294967296": ["seed=4294967296", "4294967295"],
    "seed=-1": ["seed=-1", "0 or more"],
    "output_dir=null": ["output_dir", "text"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_refused_by_name(fault: str, composed: Any) -> None:
    with pytest.raises(UsageError) as refused:
        check(composed(*fault.split()))
    assert refused.value.status == 2
    for part in FAULTS[fault]:
        assert part in str(refused.value)


def test_only_listed_targets_are_built() -> None:
    with pytest.raises(UsageError, match=r"os\.system"):
        build({"_target_": "os.system", "command": "true"})
    with pytest.raises(UsageError, match=r"Did you mean torch\.optim\.AdamW"):
        build({"_target_": "torch.optim.AdanW"})
    with pytest.raises(UsageError, match="subprocess"):  # inside another node, too
        build(
            {"_target_": "fmnist_lit.models.mlp.MLP", "hidden": [], "patch": {"_target_": "subprocess.run"}}
        )
    with pytest.raises(UsageError, match="Did you mean momentum"):
        build({"_target_": "torch.optim.SGD", "momentun": 0.9}, [])
