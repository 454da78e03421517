"""Every option composes, every pair of options is accepted or refused for a reason, every key is checked."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from fmnist_lit.build import TARGETS, build
from fmnist_lit.config import RULES, check, leaves
from fmnist_lit.errors import UsageError
from fmnist_lit.run import build_classifier

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    folder.name: sorted(
        str(path.relative_to(folder).with_suffix(""))
        for path in folder.rglob("*.yaml")
        # A base that others share starts with _; what a search found is its user's own.
        if not path.stem.startswith("_") and path.parent.name != "tuned"
    )
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "search")
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
WHOLE = ("experiment", "sweep")
Job = dict[str, str]


# Pairs of options that cannot work together, and the fault that the refusal must name.
REFUSED = {
    **{
        (("model", model), ("patch", patch)): "needs an MLP"
        for model in GROUPS["model"]
        if "patch:" not in (CONF / "model" / f"{model}.yaml").read_text()
        for patch in ("concat", "shared", "embed")
    },
    (("debug", "overfit"), ("schedule", "plateau")): "looks at validation data",
    (("callbacks", "early_stopping"), ("debug", "overfit")): "looks at validation data",
}
Option = tuple[str, str]


def is_allowed(job: Job) -> bool:
    return not any(set(pair) <= set(job.items()) for pair in REFUSED)


def allowed_pairs() -> set[frozenset[Option]]:
    """Pair every option with every one of another group, but for what is refused.

    Experiments and sweeps are left out: they choose from all groups already.
    """
    options = [option for option in OPTIONS if option[0] not in WHOLE]
    pairs = (pair for pair in combinations(options, 2) if pair[0][0] != pair[1][0])
    return {frozenset(pair) for pair in pairs if is_allowed(dict(pair))}


def pairwise_jobs() -> list[Job]:
    """Choose allowed jobs, greedily, until every allowed pair of options is in one of them."""
    left, jobs = allowed_pairs(), []
    while left:
        job: Job = dict(min(map(sorted, left)))
        for group in GROUPS:
            if group in job or group in WHOLE:
                continue
            options = [o for o in GROUPS[group] if is_allowed(job | {group: o})]
            job[group] = max(
                options, key=lambda o: sum(frozenset([(group, o), i]) in left for i in job.items())
            )
        left -= {frozenset(pair) for pair in combinations(job.items(), 2)}
        jobs.append(job)
    return jobs


EXPERIMENTS = {
    "five_models": "mlp4 mlp4_patched mlp_custom cnn_a cnn_b cnn_b_logits cnn_c vgg11",
    "early_stopping": "mlp mlp_wide_dropout cnn",
    "augmentation": "mlp cnn",
    "grid_search": "baseline mlp_32 mlp_128 mlp_256 mlp_128_64 mlp_256_128 mlp_final "
    "cnn_8 cnn_8_bn cnn_8_bn_dropout cnn_final",
    "batch_size": "bs32 bs64 bs100 bs100_logits bs256",
    "champion": "cpu gpu short",
}
# The number of jobs of each sweep.
SWEEPS = {
    "five_models/initialization": 14,
    "five_models/patching": 9,
    "five_models/optimizer": 6,
    "five_models/learning_rate": 10,
    "five_models/momentum": 8,
    "five_models/weight_decay": 8,
    "five_models/batch_size": 8,
    "grid_search/mlp": 30,  # as printed
    "grid_search/optimizer": 45,
    "grid_search/depth": 4,  # as printed
    "grid_search/filters": 9,  # as printed
    "batch_size/batch_size": 4,  # as printed
}


def test_all_groups_and_options_are_there() -> None:
    promised = {
        "model": {
            "mlp4",
            "mlp_custom",
            "cnn_a",
            "cnn_b",
            "cnn_c",
            "mlp",
            "lenet",
            "block_cnn",
            "vgg11",
            "residual",
        },
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
        "optim": {
            "sgd",
            "nesterov",
            "adam",
            "nadam",
            "amsgrad",
            "rmsprop",
            "adamw",
            "keras_adam",
            "keras_rmsprop",
        },
        "schedule": {"constant", "plateau", "cosine", "onecycle"},
        "data": {"fashion_mnist", "synthetic"},
        "trainer": {"auto", "cpu", "gpu", "ddp"},
        "logger": {"tensorboard", "none"},
        "callbacks": {"default", "early_stopping"},
        "debug": {"none", "fast", "overfit"},
        "augment": {"none", "keras", "shift_flip"},
        "experiment": {
            "none",
            *(f"{name}/{row}" for name, rows in EXPERIMENTS.items() for row in rows.split()),
        },
        "sweep": {"none", *SWEEPS},
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


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_have_their_jobs_and_the_first_and_last_of_them_are_sound(name: str, composed: Any) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("config", [f"sweep={name}"], return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"
    parser = OverridesParser.create()
    swept = parser.parse_overrides([f"{key}={values}" for key, values in hydra.sweeper.params.items()])
    jobs = list(product(*(list(override.sweep_string_iterator()) for override in swept)))
    assert len(jobs) == SWEEPS[name]
    for job in (jobs[0], jobs[-1]):
        overrides = [f"{override.key_or_group}={value}" for override, value in zip(swept, job, strict=True)]
        check(composed(f"sweep={name}", *overrides))


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"amsgrad": False}),
    "nadam": (torch.optim.NAdam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
    "keras_adam": (torch.optim.Adam, {"eps": 1e-7}),
    "keras_rmsprop": (torch.optim.RMSprop, {"eps": 1e-7, "alpha": 0.9}),
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
    "trainer.devices=2": ["2 ranks", "trainer=ddp"],
    "trainer=ddp data.batch_size=1": ["data.batch_size=1", "2 ranks"],
    "data.val_fraction=1.5": ["data.val_fraction=1.5", "less than 1"],
    "data.val_fraction=some": ["data.val_fraction=some", "a number"],
    "data.normalization=standart": ["data.normalization=standart", "standard, unit, none"],
    "data.limit=15": ["data.limit=15", "multiple of 10"],
    "data.val_fraction=0 schedule=plateau": ["schedule=plateau", "data.val_fraction"],
    "data.val_fraction=0 callbacks=early_stopping": ["early stopping", "data.val_fraction"],
    "callbacks.monitor=test_accuracy": ["callbacks.monitor=test_accuracy", "val_accuracy, val_loss"],
    "callbacks.patience=3 callbacks.monitor=null": ["callbacks.patience=3", "val_accuracy|val_loss"],
    "augment.flip=1.5": ["augment.flip=1.5", "1 at most"],
    "augment.zoom=1": ["augment.zoom=1", "less than 1"],
    "augment=keras augment.shift=0.1": ["augment.shift=0.1", "whole number"],
    "model=block_cnn model.depth=6": ["model.depth=6", "5 at most"],
    "~augment.flip": ["augment.flip", "missing"],
    "trainer.precision=16-mixed trainer.gradient_clip_val=1": ["gradient_clip_val", "bf16-mixed"],
    "model=residual model.widths=[8]": ["model.widths=[8]", "same length"],
    "debug=overfit label_smoothing=0.1": ["debug=overfit", "label_smoothing"],
    "weight_averaging=1": ["weight_averaging=1", "less than 1"],
    "label_smoothing=-0.1": ["label_smoothing=-0.1", "0 or more"],
    "optim.lr=0": ["optim.lr=0", "more than 0"],
    "optim.lr=.nan": ["optim.lr", "more than 0"],
    "optim.lr=inf": ["optim.lr=inf", "more than 0"],
    "optim=nesterov optim.momentum=0": ["optim.nesterov", "optim.momentum"],
    "optim=adam optim.betas=[0.9]": ["optim.betas=[0.9]", "2 elements"],
    "init.linear=xavier": ["init.linear=xavier", "xavier_uniform"],
    "trainer.strategy=dp": ["trainer.strategy=dp", "auto, ddp"],
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
