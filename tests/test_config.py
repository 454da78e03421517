"""Every option composes, every pair of options is accepted or refused for a reason, every key is checked."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from fmnist_lit.build import TARGETS, build
from fmnist_lit.config import check, leaves, rule_for
from fmnist_lit.errors import UsageError
from fmnist_lit.run import build_classifier

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "hydra"
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
Job = dict[str, str]


def pairwise_jobs() -> list[Job]:
    """Choose jobs, greedily, until every pair of options of two groups is in one of them."""
    pairs = {
        frozenset(pair)
        for (a, of_a), (b, of_b) in combinations(GROUPS.items(), 2)
        for pair in product(((a, o) for o in of_a), ((b, o) for o in of_b))
    }
    jobs = []
    while pairs:
        job: Job = dict(min(map(sorted, pairs)))
        for group, options in GROUPS.items():
            if group not in job:
                new = [sum(frozenset([(group, o), item]) in pairs for item in job.items()) for o in options]
                job[group] = options[new.index(max(new))]
        pairs -= {frozenset(pair) for pair in combinations(job.items(), 2)}
        jobs.append(job)
    return jobs


def refusal(job: Job) -> str | None:
    """Return the fault that a job's refusal must name, None if it must be accepted."""
    if job["patch"] != "none" and job["model"].startswith("cnn"):
        return "needs an MLP"
    if job["debug"] == "overfit" and (job["schedule"] == "plateau" or job["callbacks"] == "early_stopping"):
        return "looks at validation data"
    return "several devices" if job["trainer"] == "ddp" else None


def test_groups_are_those_that_the_readme_promises() -> None:
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
    }
    for group, options in promised.items():
        assert options <= set(GROUPS[group])


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_every_option_composes_and_every_key_of_it_has_a_rule(group: str, option: str, composed: Any) -> None:
    config = composed(f"{group}={option}")
    for key, value in leaves(config):
        rule = rule_for(key)
        assert rule is not None, f"config.RULES has no row for {key}"
        assert rule.holds(value), f"{key}={value} is not {rule.words}"
        if key.endswith("_target_"):
            assert value in TARGETS


def test_every_pair_of_options_is_accepted_or_refused_for_its_reason(composed: Any) -> None:
    jobs = pairwise_jobs()
    assert len(jobs) < 100
    for job in jobs:
        config = composed(*(f"{group}={option}" for group, option in job.items()))
        fault = refusal(job)
        if fault:
            with pytest.raises(UsageError, match=fault):
                check(config)
            continue
        check(config)
        classifier = build_classifier(config)
        optimizer = classifier.make_optimizer(classifier.model.parameters())
        classifier.make_schedule(optimizer, 100)
        assert classifier.model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


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
