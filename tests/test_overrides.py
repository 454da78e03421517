"""Overrides as users type them: what stays a text, what names nothing, and the quoted form that works."""

import shlex
from pathlib import Path

import pytest
import yaml

from fmnist_lit.errors import UsageError
from fmnist_lit.overrides import TEXTS, as_meant, as_override, options, several, unreadable, value_of
from tests.test_command_line import train

NAMES = (
    "2024_05",
    "1e3",
    "007",
    "0x10",
    "true",
    "False",
    "2024-05-01",
    "1.50",
    "5",
    "-3",
    ".5",
    "inf",
    "nan",
    "on",
)


@pytest.mark.parametrize("key", [*TEXTS, "+name", "++output_dir"])
def test_a_text_is_kept_as_typed(key: str) -> None:
    for name in NAMES:
        (override,) = as_meant([f"{key}={name}"])
        assert value_of(override) == name
    assert list(as_meant([f"{key}=null", f"{key}=", "seed=5", "-m"])) == [
        f"{key}=null",
        f"{key}=",
        "seed=5",
        "-m",
    ]


def test_a_run_has_the_name_that_was_typed() -> None:
    for name in ("2024_05", "007"):
        answer = train(f"name={name}", "--cfg", "job")
        assert yaml.safe_load(answer.stdout)["name"] == name


def test_a_pattern_chooses_among_the_options_of_a_group() -> None:
    """Hydra's glob."""
    assert list(as_meant(["model=glob(cnn_*)"])) == ["model=glob(cnn_*)"]
    with pytest.raises(
        UsageError, match=r"model=glob\(dnn_\*\): no model has such a name\. Choices: block_cnn, "
    ):
        list(as_meant(["model=glob(dnn_*)"]))


def test_a_name_with_commas_is_still_a_sweep() -> None:
    assert list(as_meant(["name=1,2"])) == ["name=1,2"]


@pytest.mark.parametrize(
    "override",
    ["logger=null", "logger=[]", "logger=3", "logger=[csv,null]", "+logger=NULL", "logger=csv,null"],
)
def test_a_group_that_names_nothing_is_answered_with_how_to_say_none(override: str) -> None:
    with pytest.raises(UsageError, match=r"names no logger\. To have none, say logger=none\. Choices: csv, "):
        list(as_meant([override]))


# The command line, and parts of its one message.
ANSWERS = {
    "optim=null": ["optim=null: it names no optim. Choices: adam, "],
    "model=": ["model=: no such model. Choices: block_cnn, "],
    "logger=[tensorboard,cvs]": ["logger=cvs: no such logger. Did you mean csv?"],
    "search=cnn": ["scripts/tune.py"],
    "experiment=mnie": ["Did you mean mine?"],
    "experiment=team/b": ["team/a"],
    "mine=x": ["mine=x", "+mine=x"],
    "+mine=x": ["mine=x: no such mine. Choices: y."],
    "model.hidden=[1,2": ["close the bracket: 'model.hidden=[1,2]'"],
    "output_dir=/a(b": ["""quote such a text, for Hydra and for the shell: "output_dir='/a(b'\""""],
    "output_dir=/a,b": ["-m (--multirun)", """"output_dir='/a,b'\""""],
    "--config-name=nix": ["Cannot find primary config 'nix'"],
    "schedule=plateau schedule.patiense=1": ["Did you mean patience?", "factor"],
    "data.images.foldr=x": ["Did you mean folder? Choices: folder, source."],
    "-m optim.lrr=1,2": ["Did you mean lr? Choices: ", "weight_decay"],
    "hydra/launcher=null": ["hydra/launcher=null: it names no hydra/launcher. Leave it out"],
    "-m hydra/sweeper=[] seed=0": ["hydra/sweeper=[]: it names no hydra/sweeper. Leave it out"],
    "~data.images data.images.folder=x": ["data.images: this key is missing; a run needs it."],
    "~trainer seed=0 trainer.max_epochs=1": ["trainer: this key is missing; a run needs it."],
    "lr=3": ["lr: no such key. Did you mean optim.lr?"],
    "optim.learning_rate=0.1": ["optim.learning_rate: no such key. Did you mean lr?"],
    "epochs=3": ["epochs: no such key. Did you mean trainer.max_epochs or callbacks.resume.every_n_epochs?"],
    "--lr 0.01": ["--lr: no such option. A setting has no dashes: lr=... (options: --help)"],
    "seed=1 --epochs=3": ["A setting has no dashes: epochs=3"],
    "callbacks.b._target_=x.Y": ["To add one, put a plus before it: +callbacks.b._target_=..."],
    "model.classes=5": ["model.classes: no such key. Choices: "],  # a run gives it
    "model.dropot=1": ["model.dropot: no such key. Did you mean dropout? Choices: "],
    "experiment=cnn_c": ["Did you mean five_models/cnn_c?"],
    "experiment=cnn": ["Did you mean augmentation/cnn or early_stopping/cnn?"],
    "model._target_=fmnist_lit.models.mlp.MPL": ["Did you mean MLP? Choices: MLP."],
    "data._target_=lightning.pytorch.LightningDataModule": [
        "must be a fmnist_lit.data.datamodule.DataModule"
    ],
    "data=idx": ["data.images.folder: this key is missing; a run needs it."],
    "model=tabbed": ["YAML is indented by spaces."],
    "schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau": ["+schedule.monitor=val_loss"],
    "init_from=nowhere": ["nowhere: there is no such run."],
    "data.batch_size=0": ["data.batch_size=0: it must be a whole number, 1 or more"],
    "debug.x=1": ["debug.x: no such key. Choices: loss_within."],
}


@pytest.mark.parametrize("line", ANSWERS)
def test_an_answer_names_what_can_be_said(line: str, tmp_path: Path) -> None:
    for name in ("experiment/mine", "experiment/team/a", "experiment/team/_base", "mine/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("seed: 1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tabbed.yaml").write_text("_target_: x\n\ta: 1")
    answer = train("--config-dir", str(tmp_path), *line.split())
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) == 1
    assert "_" not in [name[0] for name in answer.stderr.replace("/", " ").split()]
    for part in ANSWERS[line]:
        assert part in answer.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a(b",
        "a=b",
        "a)",
        "[x",
        "x]",
        "{a",
        "it's",
        'say "x"',
        "a#b",
        "ä b",
        "$HOME (1)",
        "`ls`(",
        "a\\'(",
        "x(!",
    ],
)
def test_the_quoted_form_goes_through_a_shell(text: str) -> None:
    said = unreadable(f"init_from={text}")
    (word,) = shlex.split(said.partition("for the shell: ")[2])
    assert value_of(word) == text


def test_several_values_may_be_one_text_or_a_list() -> None:
    said = several("freeze=a,b")
    forms = [shlex.split(part)[0] for part in (said.partition("list is ")[2], said.partition("commas ")[2])]
    assert [value_of(form.rstrip(",")) for form in forms] == [["a", "b"], "a,b"]


def test_a_chosen_value_is_what_the_command_line_reads() -> None:
    for value in ("adam", "1e3", "a b", "a(b", "a,b", "null", "", 3, 0.5, None, True):
        assert value_of(as_override("key", value)) == value


def test_help_is_a_screen_of_what_can_be_chosen() -> None:
    shown = train("--help").stdout
    assert len(shown.splitlines()) <= 40
    assert max(map(len, shown.splitlines())) <= 100
    assert "model:      block_cnn, cnn_a, cnn_b, [cnn_c], lenet" in shown
    assert "five_models/..." in shown
    assert "/_" not in shown
    assert "search:" not in shown
    assert "none" in options("experiment")


@pytest.mark.parametrize("group", ["model", "optim", "data", "schedule", "init", "debug", "trainer", "sweep"])
def test_of_most_groups_one_option_is_chosen(group: str) -> None:
    """Hydra would merge them, into something that nobody has asked for."""
    first, second = options(group)[:2]
    with pytest.raises(UsageError, match=rf"one {group} is chosen\. To train with each: -m {group}={first},"):
        list(as_meant([f"{group}=[{first},{second}]"]))
    assert list(as_meant([f"{group}={first},{second}"]))
    several = ["logger=[csv,tensorboard]", "metrics=[none,macro_f1]", "augment=[shift_flip,mixup]"]
    assert list(as_meant(several)) == several


@pytest.mark.parametrize("name", ["cnn_a.yaml", "./cnn_a", "../model/cnn_a", "x/../cnn_a"])
def test_an_option_has_one_name(name: str) -> None:
    """Hydra takes them, and tables of runs would show several models where there is one."""
    with pytest.raises(UsageError, match=r"no such model\. Did you mean cnn_a"):
        list(as_meant([f"model={name}"]))


@pytest.mark.parametrize("name", ["a b", "\N{HIKING BOOT}", "it's", "x" * 300])
def test_a_name_that_cannot_be_is_not_offered_in_quotes(name: str) -> None:
    answer = train(f"name={name}")
    assert answer.returncode == 2
    assert "letters, digits, dots, - and _, 200 bytes at most" in answer.stderr
    assert "quote" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_what_names_no_folder_is_refused() -> None:
    answer = train("hydra.run.dir=/dev/null")
    assert (answer.returncode, answer.stderr) == (2, "error: hydra.run.dir: /dev/null is no folder.\n")
    for arguments in (["hydra.run.dir="], ["-m", "seed=0,1", "hydra.sweep.dir="]):
        answer = train(*arguments)
        assert answer.returncode == 2
        assert answer.stderr.endswith("it names no folder.\n")


def test_a_further_logger_is_said_to_need_no_plus() -> None:
    answer = train("logger=none", "+logger=csv")
    assert answer.stderr == (
        "error: logger: one is there already. Leave out the plus, or name both: logger=[...,...]\n"
    )


def test_a_key_of_earlier_versions_is_called_by_its_name_of_today() -> None:
    """Records have the names of their commit."""
    for key, now in (("weight_averaging", "ema_decay"), ("augment.flip", "augment.affine.flip")):
        answer = train(f"{key}=0", "augment=shift_flip")
        assert (answer.returncode, answer.stderr) == (2, f"error: {key}: this key is {now} now.\n")
