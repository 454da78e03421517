"""Every option composes, every pair of options is accepted or refused for a reason, every key is checked."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from fmnist_lit.build import TRUSTED, build
from fmnist_lit.check import check
from fmnist_lit.config import leaves
from fmnist_lit.errors import UsageError
from fmnist_lit.resume import BUILT_FROM
from fmnist_lit.run import build_classifier
from fmnist_lit.trainer import build_callbacks

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    folder.name: sorted(
        str(path.relative_to(folder).with_suffix(""))
        for path in folder.rglob("*.yaml")
        # A base that others share starts with _; what a search found is its user's own.
        if not path.stem.startswith("_") and path.parent.name != "tuned"
    )
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "schemas", "search")
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
    (("debug", "overfit"), ("schedule", "plateau")): "there is no validation data",
    (("callbacks", "early_stopping"), ("debug", "overfit")): "there is no validation data",
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
    groups = sorted(GROUPS, key=lambda group: (-len(GROUPS[group]), group))
    while left:  # the rarest first: pairs of the largest groups
        job: Job = dict(max(map(sorted, left), key=lambda p: (sum(len(GROUPS[g]) for g, _ in p), p)))
        for group in groups:
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
    "champion": "cpu cpu300 gpu short tiny",
}
# The number of jobs of each sweep.
SWEEPS = {
    "five_models/initialization": 14,
    "five_models/patching": 9,
    "five_models/optimizer": 12,
    "five_models/optimizer_sgd": 12,
    "five_models/learning_rate": 10,
    "five_models/momentum": 8,
    "five_models/weight_decay": 8,
    "five_models/batch_size": 8,
    "grid_search/mlp": 30,  # as printed
    "grid_search/optimizer": 18,
    "grid_search/optimizer_sgd": 12,
    "grid_search/kernel": 2,
    "grid_search/folds": 10,
    "grid_search/depth": 4,  # as printed
    "grid_search/filters": 9,  # as printed
    "batch_size/batch_size": 4,  # as printed
    "early_stopping/hidden_layers": 2,
    "early_stopping/learning_rate": 3,
    "early_stopping/selection": 4,
    "augmentation/augment": 4,
    "champion/isoflop": 3,
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
            "separable",
            "wide_resnet",
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
        "schedule": {"constant", "plateau", "cosine", "onecycle", "step", "exponential"},
        "data": {"fashion_mnist", "mnist", "kmnist", "idx", "synthetic"},
        "trainer": {"auto", "cpu", "gpu", "ddp"},
        "logger": {"tensorboard", "csv", "wandb", "mlflow", "none"},
        "metrics": {"none", "macro_f1"},
        "callbacks": {"default", "early_stopping"},
        "debug": {"none", "fast", "overfit"},
        "augment": {"none", "keras", "shift_flip", "mixup", "cutmix", "fmix"},
        "experiment": {
            "none",
            *(f"{name}/{row}" for name, rows in EXPERIMENTS.items() for row in rows.split()),
        },
        "sweep": {"none", *SWEEPS},
    }
    assert promised.keys() == GROUPS.keys()
    for group, options in promised.items():
        assert options <= set(GROUPS[group])


@pytest.mark.long
def test_every_pair_of_options_builds(composed: Any) -> None:
    jobs = pairwise_jobs()
    covered = {frozenset(pair) for job in jobs for pair in combinations(job.items(), 2)}
    assert allowed_pairs() <= covered
    for job in jobs:
        folder = ["data.images.folder=somewhere"] if job["data"] == "idx" else []
        config = composed(*(f"{group}={option}" for group, option in job.items()), *folder)
        check(config)
        for key, value in leaves(config):
            assert not key.endswith("_target_") or value.startswith(BUILT_FROM)
        classifier = build_classifier(config)
        optimizer = classifier.make_optimizer(classifier.model.parameters())
        classifier.make_schedule(optimizer, 100)
        assert classifier.model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
        assert build_callbacks(config)


@pytest.mark.parametrize("pair", REFUSED, ids=str)
def test_pairs_that_cannot_work_are_refused(pair: tuple[Option, Option], composed: Any) -> None:
    with pytest.raises(UsageError, match=REFUSED[pair]):
        check(composed(*(f"{group}={option}" for group, option in pair)))


def test_every_sweep_is_listed() -> None:
    folder = CONF / "sweep"
    assert set(SWEEPS) == {
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/[!_]*.yaml")
    }


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
        composed(f"optim={name}", "optim.lr=0.125")["optim"], "optim", [torch.nn.Parameter(torch.ones(1))]
    )
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.125
    assert settings.items() <= optimizer.defaults.items()


# The fault on the command line, and what the message must name.
FAULTS = {
    "patch.size=5": ["patch.size=5", "2, 4, 7 or 14"],
    "model=mlp4 patch=shared patch.size=5": ["patch.size=5", "2, 4, 7, 14"],
    "model=mlp4 patch=shared patch.size=null": ["patch.size=null", "2, 4, 7, 14"],
    "model=mlp4 patch.size=7": ["patch.size=7", "patch=concat"],
    "model=cnn_a patch=embed": ["PatchEmbedding", "mlp4", "mlp_custom"],
    "model=mlp4 model.activation=tanh": ["model.activation=tanh", "relu, leaky_relu"],
    "model=mlp4 model.hidden=500": ["model.hidden=500", "a list"],
    "model=mlp4 model.hidden=[500,0]": ["model.hidden=[500, 0]", "a whole number, 1 or more"],
    "model=mlp4 model.hidden=[wide]": ["model.hidden=[wide]", "a whole number"],
    "model=cnn_b model.head=sigmoid": ["model.head=sigmoid", "softmax, logits"],
    "model.dropout=1": ["model.dropout=1", "less than 1"],
    "trainer.max_epochs=-3": ["trainer.max_epochs=-3", "a whole number, 1 or more"],
    "trainer.max_epochs=2.5": ["trainer.max_epochs=2.5", "whole number"],
    "trainer.max_epochs=true": ["trainer.max_epochs=true", "whole number"],
    "trainer.devices=2": ["2 processes", "trainer=ddp"],
    "trainer=ddp data.batch_size=1": ["data.batch_size=1", "2 processes"],
    "trainer=ddp trainer.devices=all": ["trainer.devices=all", "a whole number"],
    "data.val_fraction=1.5": ["data.val_fraction=1.5", "less than 1"],
    "data.val_fraction=some": ["data.val_fraction=some", "a number"],
    "data.normalization=standart": ["data.normalization=standart", "standard, unit, none"],
    "data.train_subset=15": ["data.train_subset=15", "multiple of 10"],
    "data.folds=5 data.fold=5": ["data.fold=5", "0 to 4"],
    "data.images.folder=''": ["data.images.folder", "not empty"],
    "data.val_fraction=0 schedule=plateau": ["schedule looks at val_accuracy", "data.val_fraction"],
    "data.val_fraction=0 callbacks=early_stopping": ["callbacks.early_stopping looks", "data.val_fraction"],
    "trainer.limit_val_batches=0 schedule=plateau": ["schedule looks at val_accuracy"],
    "callbacks.best.monitor=test_accuracy": [
        "callbacks.best.monitor=test_accuracy",
        "val_accuracy or val_loss",
    ],
    "callbacks=early_stopping callbacks.early_stopping.monitor=test_loss": ["the test set selects nothing"],
    "schedule=plateau schedule.monitor=test_loss": [
        "schedule.monitor=test_loss",
        "the test set selects nothing",
    ],
    "callbacks.best.monitor=quality": ["callbacks.best.monitor=quality: nothing logs it", "val_accuracy"],
    "+metrics.quality._target_=torchmetrics.classification.MulticlassStatScores "
    "+metrics.quality.average=null": ["metrics.quality", "one number"],
    "callbacks=early_stopping callbacks.best.monitor=null": ["callbacks.early_stopping.monitor=null", "text"],
    "callbacks=early_stopping callbacks.early_stopping.patience=0": ["patience=0", "1 or more"],
    "+callbacks.early_stopping.patience=3": ["callbacks.early_stopping._target_", "missing"],
    "+callbacks.swa._target_=lightning.pytorch.callbacks.StochasticWeightAveraging": ["swa_lrs", "missing"],
    "augment.affine.flip=1.5": ["augment.affine.flip=1.5", "1 at most"],
    "augment.affine.zoom=1": ["augment.affine.zoom=1", "less than 1"],
    "augment=keras augment.affine.shift=0.1": ["augment.affine.shift=0.1", "whole number"],
    "model=block_cnn model.depth=6": ["model.depth=6", "a whole number, 5 at most"],
    "~augment.affine._target_": ["augment.affine._target_", "missing"],
    "model=residual model.widths=[8]": ["widths=[8]", "same length"],
    "model=separable model.widths=[]": ["widths=[]", "same length"],
    "debug=overfit label_smoothing=0.1": ["debug=overfit", "label_smoothing"],
    "ema_decay=1": ["ema_decay=1", "less than 1"],
    "label_smoothing=-0.1": ["label_smoothing=-0.1", "0 or more"],
    "optim.lr=0": ["optim.lr=0", "more than 0"],
    "optim.lr=.nan": ["optim.lr", "a number"],
    "optim.lr=inf": ["optim.lr=inf", "a finite number"],
    "optim.momentum=2": ["optim.momentum=2", "less than 1"],
    "optim.weight_decay=-1": ["optim.weight_decay=-1", "0 or more"],
    "optim=nesterov optim.momentum=0": ["optim (SGD)", "Nesterov", "momentum"],
    "optim=adam optim.betas=[0.9]": ["optim.betas=[0.9]", "a list of 2 elements"],
    "optim=adam optim.betas=[0.9,0.9,0.9]": ["optim.betas=[0.9, 0.9, 0.9]", "2 elements"],
    "init.linear=xavier": ["init.linear=xavier", "xavier_uniform"],
    "trainer.strategy=dp": ["trainer.strategy=dp", "auto, ddp"],
    "trainer.accelerator=abacus": ["abacus", "cpu"],
    "trainer.precision=8": ["trainer.precision=8", "bf16-mixed", "64-true"],
    "+trainer.profiler=fast": ["profiler", "simple"],
    "+trainer.max_time=abc": ["abc", "DD:HH:MM:SS"],
    "trainer=cpu trainer.precision=16": ["trainer.precision=16-mixed needs a GPU"],
    "trainer.limit_train_batches=0": ["trainer.limit_train_batches=0", "1 or more", "more than 0"],
    "+trainer.barebones=true": ["trainer.barebones=true", "Leave it out"],
    "+trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches=0", "1 or more"],
    "optim._target_=os.system": ["optim._target_=os.system", "torch.optim.Optimizer"],
    "optim._target_=torch.optim.AdanW": ["torch.optim has no AdanW", "Did you mean AdamW?"],
    "optim._target_=nowhere.SGD": ["Python has no nowhere", "PYTHONPATH"],
    "model._target_=torch.optim.SGD": ["model._target_=torch.optim.SGD", "torch.nn.Module"],
    "+metrics.f1._target_=torchmetrics.F1Scor": ["metrics.f1._target_", "Did you mean F1Score?"],
    "+metrics.f1=3": ["metrics.f1._target_", "missing"],
    "+foo=1": ["foo", "no such key"],
    "+optim.momentun=0.8": ["optim.momentun", "Did you mean momentum?"],
    "+trainer.chek_val_every_n_epoch=2": ["no such key", "Did you mean check_val_every_n_epoch?"],
    "+trainer.callbacks=[]": ["trainer.callbacks", "no such key"],
    "+init.foo=1": ["init.foo", "linear"],
    "~model": ["model", "missing"],
    "~data.val_fraction": ["data.val_fraction", "missing"],
    "schedule=cosine schedule.min_lr=1": ["schedule.min_lr=1", "optim.lr=0.01"],
    "schedule=onecycle schedule.div_factor=0.5": ["schedule.div_factor=0.5", "1 or more"],
    "schedule=step schedule.step_size=0": ["schedule.step_size=0", "a whole number, 1 or more"],
    "seed=4294967296": ["seed=4294967296", "4294967295"],
    "seed=-1": ["seed=-1", "0 or more"],
    "steps_per_execution=0": ["steps_per_execution=0", "auto", "1 or more"],
    "name=a/b": ["name=a/b", "letters, digits"],
    "output_dir=null": ["output_dir=null", "text"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_refused_by_name(fault: str, composed: Any) -> None:
    with pytest.raises(UsageError) as refused:
        check(composed(*fault.split()))
    assert refused.value.status == 2
    assert len(str(refused.value).splitlines()) == 1
    for part in FAULTS[fault]:
        assert part in str(refused.value)


RIGHT = (
    "+trainer.check_val_every_n_epoch=2",
    "+trainer.profiler=simple",
    "trainer.limit_val_batches=0.5",
    "trainer.gradient_clip_val=0",
    "trainer.precision=bf16-mixed",
    "~augment.affine.flip",
    "augment.affine=null",
    "data.val_fraction=0 callbacks.best.monitor=null",
    "data.val_fraction=0 data.folds=5 data.fold=4 schedule=plateau",
    "+schedule.mode=min schedule=plateau schedule.monitor=val_accuracy",
    "schedule._target_=torch.optim.lr_scheduler.LinearLR",
    "optim=adam optim.betas=[0.5,0]",
    "logger=[tensorboard,csv]",
)


@pytest.mark.parametrize("overrides", RIGHT)
def test_what_can_work_is_not_refused(overrides: str, composed: Any) -> None:
    check(composed(*overrides.split()))


def test_only_targets_of_a_groups_role_are_built_and_readers_trust_few() -> None:
    with pytest.raises(UsageError, match=r"os\.system: optim must be a torch\.optim\.Optimizer"):
        build({"_target_": "os.system", "command": "true"}, "optim")
    with pytest.raises(UsageError, match=r"torch\.optim has no AdanW\. Did you mean AdamW"):
        build({"_target_": "torch.optim.AdanW"}, "optim")
    mlp = {"_target_": "fmnist_lit.models.mlp.MLP", "hidden": []}
    with pytest.raises(
        UsageError, match=r"subprocess\.run: model\.patch must be"
    ):  # inside another node, too
        build(mlp | {"patch": {"_target_": "subprocess.run"}}, "model")
    with pytest.raises(UsageError, match="Did you mean momentum"):
        build({"_target_": "torch.optim.SGD", "momentun": 0.9}, "optim", [])
    for node in ({"_target_": "mine.Net"}, mlp | {"patch": {"_target_": "mine.Patch"}}):
        with pytest.raises(UsageError, match=r"only targets from .*--trust mine"):
            build(node, "model", trusted=TRUSTED)
