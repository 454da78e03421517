"""Lightning's Trainer as a config describes it, with what a run adds: its callbacks and whole checkpoints."""

import logging
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    Timer,
)
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from fmnist_lit.build import (
    TARGET,
    TARGET_TFLOP,
    arguments_of,
    build,
    build_group,
    checked,
    known_keys,
    locate,
    trainer_arguments,
)
from fmnist_lit.callbacks import BestCheckpoint, EarlyStopping, History, ResumeCheckpoint
from fmnist_lit.checkpoints import AtomicCheckpointIO
from fmnist_lit.config import has_validation
from fmnist_lit.distributed import is_started
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.schedules import with_mode

GROUP_IMAGES = 1024  # in a call of training_step: a tenth of a second of the fastest models
# Flags whose unit is a batch of Lightning's, and the values that leave them out.
OF_SINGLE_STEPS: dict[str, tuple[Any, ...]] = {
    "accumulate_grad_batches": (1,),
    "fast_dev_run": (False, 0),
    "limit_train_batches": (None, 1.0),
    "max_steps": (-1,),
    "min_steps": (None,),
    "overfit_batches": (0, 0.0),
    "target_tflop": (None,),
    "val_check_interval": (None, 1.0),
}
# Of Lightning's own callbacks, those that do nothing or something else between several steps at once.
STEP_CALLBACKS = (
    "StochasticWeightAveraging",
    "GradientAccumulationScheduler",
    "WeightAveraging",
    "EMAWeightAveraging",
)
# They have something to do around batches, but nothing that several at once would change.
PER_EPOCH = (ProgressBar, ModelCheckpoint, Timer)
# Those that change what a config describes, and what does the same here.
ELSEWHERE = {
    BatchSizeFinder: "try sizes with -m data.batch_size=32,64,128",
    LearningRateFinder: "try rates with -m optim.lr=0.001,0.01 or scripts/tune.py",
}
BATCH_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# Those that end a run which has no logger.
OF_LOGGERS = (DeviceStatsMonitor, LearningRateMonitor)
# What Lightning warns of, and is no fault here.
NO_FAULTS = (
    "exists and is not empty",  # a resumed run finds its own checkpoints
    "does not have many workers",  # the images lie on the device, where no workers help
    "could not find the monitored key",  # an epoch that is cut short has no validation
    "conditioned on metric",  # likewise; where there is validation the run ends
    r"module\(s\) in eval mode",  # normalization of a part that is frozen
    "across ranks is zero",  # there may be no validation data
    "GPU available but not used",  # a config is tried on a CPU, or asks for one
)
# Nor this, unless a callback logs in steps.
NO_FAULT_OF_EPOCHS = "(?s).*smaller than the logging interval"
# A run that goes on without all of its state is another run.
LOSSES = ("won't be reloaded", "callbacks used to create the checkpoint")


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that measures nothing, in a fifth of its time: it is asked for in every hook."""

    NOTHING: ClassVar = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        """Measure nothing."""
        return self.NOTHING


def quiet_lightning() -> None:
    """Leave out what Lightning says to every run: devices, tips, and its own use of deprecated names."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()  # what it does say is for the terminal and train.log, as all else
        logger.propagate = True
    logging.getLogger("lightning").handlers.clear()  # which would say it a second time
    for asked in ("profilers", "callbacks"):  # a report, or a table of layers
        logging.getLogger(f"lightning.pytorch.{asked}").setLevel(logging.INFO)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"lightning\.")
    warnings.filterwarnings("ignore", message=f"(?s).*({'|'.join(NO_FAULTS)})")
    warnings.filterwarnings("error", message=f"(?s).*({'|'.join(LOSSES)})")
    threading.excepthook = show_in_thread


def show_in_thread(args: threading.ExceptHookArgs) -> None:
    """Show what ended a thread, but for TensorBoard's writer: whoever writes next gets its error."""
    if not type(args.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(args)


def accelerator(settings: Mapping[str, Any]) -> str:
    """Return the accelerator to use: the CPU where "auto" finds no other.

    Raises:
        UserError: there are fewer GPUs than ``trainer.devices`` says.
    """
    named, wanted = settings.get("accelerator", "auto"), settings.get("devices", 1)
    found = torch.cuda.device_count()
    if named == "auto" and not found:
        return "cpu"
    if named not in ("auto", "gpu", "cuda"):
        return str(named)
    if not found:
        raise UserError(
            f"trainer.accelerator={named}: PyTorch sees no CUDA device here. "
            "Choose trainer=auto or trainer=cpu."
        )
    if found < wanted:
        raise UserError(
            f"trainer.devices={wanted}: PyTorch sees {found} CUDA devices here. Choose fewer, or the CPU: "
            "trainer.accelerator=cpu."
        )
    return "gpu"


def needs_single_steps(config: Mapping[str, Any], callbacks: Sequence[L.Callback]) -> list[str]:
    """Name the flags and callbacks of a config that only Lightning's own single steps obey."""
    settings, nodes = config["trainer"], config["callbacks"]
    flags = [
        f"trainer.{name}"
        for name, off in OF_SINGLE_STEPS.items()
        if name in settings and not is_one_of(settings[name], off)
    ]
    kinds = {type(callback).__name__ for callback in callbacks} & set(STEP_CALLBACKS)
    counting = [name for name, node in nodes.items() if node and node.get("every_n_train_steps")]
    return flags + sorted(kinds) + [f"callbacks.{name}.every_n_train_steps" for name in counting]


def is_one_of(value: Any, known: Sequence[Any]) -> bool:
    """Whether a value is there, of its own type: Lightning takes 1 for a batch and 1.0 for all of them."""
    return any(value == one and type(value) is type(one) for one in known)


def looks_at_batches(callback: L.Callback) -> bool:
    """Whether a callback is called around a batch or a step, of which it expects one."""
    if type(callback).__module__.startswith("fmnist_lit.") or isinstance(callback, PER_EPOCH):
        return False
    return any(is_overridden(name, callback) for name in BATCH_HOOKS)


def steps_per_execution(config: Mapping[str, Any], callbacks: Sequence[L.Callback]) -> int:
    """Return how many batches a call of ``training_step`` gets: a thousand images', or as the config says.

    Raises:
        UsageError: more than one, and a flag or callback obeys single steps only.
    """
    named = config["steps_per_execution"]
    single = needs_single_steps(config, callbacks)
    if named == "auto":
        several = max(1, GROUP_IMAGES // config["data"].get("batch_size", GROUP_IMAGES))
        return 1 if single or any(map(looks_at_batches, callbacks)) else several
    if named > 1 and single:
        raise UsageError(
            f"{', '.join(single)}: not with steps_per_execution={named}. Set steps_per_execution=1."
        )
    return int(named)


def build_callbacks(config: Mapping[str, Any], **facts: Any) -> list[L.Callback]:
    """Build the callbacks of a config.

    A progress bar is only for a terminal, a best checkpoint only where a metric chooses one.

    Raises:
        UsageError: one changes what the config says.
    """
    nodes = {name: dict(node) for name, node in config["callbacks"].items() if node is not None}
    best = nodes.get("best", {})
    if best.get("monitor") is None or (best["monitor"].startswith("val_") and not has_validation(config)):
        nodes.pop("best", None)
    if not sys.stdout.isatty():
        nodes = {name: node for name, node in nodes.items() if not node[TARGET].endswith("ProgressBar")}
    for name, node in nodes.items():
        key = f"callbacks.{name}"
        chooses = issubclass(locate(node[TARGET]), BestCheckpoint | EarlyStopping)
        if chooses and "mode" in known_keys(arguments_of(node, key)):
            nodes[name] = with_mode(node, key, config["metrics"])
    built = [build(node, f"callbacks.{name}", **facts) for name, node in nodes.items()]
    for kind, instead in ELSEWHERE.items():
        if any(isinstance(one, kind) for one in built):
            raise UsageError(
                f"{kind.__name__} changes what a config says, which is a run's record: {instead}."
            )
    if not any(isinstance(one, ResumeCheckpoint) for one in built):  # without it a run ends with no weights
        built.append(ResumeCheckpoint(math.inf, **facts))
    return built


def try_trainer(config: Mapping[str, Any]) -> None:
    """Build what a run's Trainer is made of on one CPU, where nothing is written, and drop it.

    Raises:
        UsageError: a flag or a callback cannot be, or not with several steps at once.
    """
    quiet_lightning()
    facts: dict[str, Any] = {"directory": Path(), "signals": None, "computed": {}}
    callbacks = build_callbacks(config, **facts)
    steps_per_execution(config, callbacks)
    mute = [type(one).__name__ for one in callbacks if isinstance(one, OF_LOGGERS)]
    if mute and not any(config["logger"].values()):
        raise UsageError(f"callbacks: {mute[0]} needs a logger: logger=csv, say, or leave it out.")
    arguments = trainer_settings(config["trainer"])
    require_precision(arguments)
    if arguments.get("barebones"):
        raise UsageError("trainer.barebones=true: a run keeps checkpoints and its history. Leave it out.")
    if arguments.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        arguments |= {"accelerator": "cpu", "precision": "32-true"}
    with trainer_faults():
        L.Trainer(
            **arguments | {"devices": 1, "num_nodes": 1, "logger": False, "plugins": LightningEnvironment()}
        )


def trainer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return Lightning's arguments of a config's flags; a target of computation is in steps by now.

    Raises:
        UsageError: one cannot be.
    """
    arguments = checked(trainer_arguments(), settings, "trainer.")
    arguments.pop(TARGET_TFLOP, None)
    return arguments


def require_precision(settings: Mapping[str, Any]) -> None:
    """Refuse what Lightning would replace by another precision.

    Raises:
        UsageError: a CPU cannot have it.
    """
    if settings.get("precision") == "16-mixed" and settings.get("accelerator") == "cpu":
        raise UsageError("trainer.precision=16-mixed needs a GPU. On a CPU choose bf16-mixed or 32-true.")


@contextmanager
def trainer_faults() -> Iterator[None]:
    """Turn what Lightning says of its Trainer's arguments into a message."""
    try:
        yield
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from error


def build_trainer(
    config: Mapping[str, Any], directory: Path, callbacks: Sequence[L.Callback], history: History
) -> L.Trainer:
    """Build the Trainer with its callbacks and loggers; the classifier clips gradients itself.

    Raises:
        UserError: there is no such device, or it cannot do what is asked.
    """
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    settings: dict[str, Any] = {"enable_progress_bar": bar, "enable_model_summary": False}
    settings |= config["trainer"]
    settings |= {"gradient_clip_val": None, "gradient_clip_algorithm": None}
    settings["accelerator"] = accelerator(settings)
    require_precision(settings)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if not is_started(config):
        # Lightning has taken it from a cluster's variables, which number runs here; it sees one device.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        plugins.append(LightningEnvironment())
    last = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    last.sort(key=lambda callback: isinstance(callback, ResumeCheckpoint))  # it saves what the others know
    others = [callback for callback in callbacks if callback not in last]
    in_steps = any(isinstance(callback, OF_LOGGERS) for callback in callbacks)
    warnings.filterwarnings("default" if in_steps else "ignore", message=NO_FAULT_OF_EPOCHS)
    arguments = trainer_settings(settings)
    with trainer_faults():
        return L.Trainer(
            **arguments | {"profiler": arguments.get("profiler") or NoProfiler()},
            logger=list(build_group(config, "logger", save_dir=str(directory)).values()),
            callbacks=[*others, history, *last],
            plugins=plugins,
            default_root_dir=str(directory),
        )
