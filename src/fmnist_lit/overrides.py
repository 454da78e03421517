"""Overrides as users type them: texts stay texts, groups name options, what Hydra cannot read is quoted."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fmnist_lit.build import ROLES
from fmnist_lit.config import CONF, PATHS, check_whole
from fmnist_lit.errors import UsageError, choices

TEXTS = ("name", *PATHS)  # keys whose values are texts, whatever they look like
NO_GROUPS = ("hydra", "schemas", "search")  # folders of conf/ that no command line of train.py chooses from
# Hydra's flags that a value follows.
VALUED = re.compile("-(-config-(dir|path|name)|c[dpn]?|-cfg|-package|p|-info|i)")
FLAGS = (  # Hydra's; the beginning of a word will do
    " --help --hydra-help --version --cfg --resolve --package --run --multirun --info --shell-completion "
    "--config-path --config-name --config-dir --experimental-rerun"
)
SHELL = set('$`\\!"\n')  # characters that a shell reads between double quotes


def parsed(argument: str) -> Override | None:
    """Read an override as Hydra does; return None for what is none."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def quoted(key: str, text: str) -> str:
    """Return the override that gives a key this text."""
    return f"{key}={QuotedString(text, Quote.single).with_quotes()}"


def as_override(key: str, value: object) -> str:
    """Return the override that gives a key this value; a text that Hydra would read otherwise is quoted."""
    bare = f"{key}={'null' if value is None else value}"
    read = parsed(bare) if isinstance(value, str) else None
    if not isinstance(value, str) or (read and not read.is_sweep_override() and read.value() == value):
        return bare
    return quoted(key, value)


def value_of(override: str) -> Any:
    """Return the value of a sound override."""
    return OverridesParser.create().parse_override(override).value()


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return a command line with Hydra's flags, and what belongs to them, before the overrides.

    Raises:
        UsageError: Hydra has no such flag.
    """
    flags: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        if re.match("--[a-z]", name) and f" {name}" not in FLAGS:
            setting = f"{name.lstrip('-')}={value if equals else '...'}"
            raise UsageError(
                f"{argument}: no such option. A setting has no dashes: {setting} (options: --help)"
            )
        flag = argument.startswith("-") or bool(VALUED.fullmatch(before))
        (flags if flag else others).append(argument)
    return [*flags, *others]


def as_meant(arguments: Iterable[str]) -> Iterator[str]:
    """Return a command line with texts that Hydra would read as numbers or truth values kept as typed.

    Raises:
        UsageError: a group names no option; the message has those there are.
    """
    groups = all_groups()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        group = key.lstrip("+")
        if group == "search" and equals:
            raise UsageError(f"{argument}: train.py searches nothing: python scripts/tune.py conf/search/...")
        wanted = group in TEXTS or group in groups or group.startswith("hydra/")
        override = parsed(argument) if wanted else None
        if override is None or override.is_delete():
            yield argument
        elif group in TEXTS:
            number = not override.is_sweep_override() and isinstance(override.value(), bool | int | float)
            yield quoted(key, text) if number else argument
        else:
            require_option(group, override)
            yield argument


def require_option(group: str, override: Override) -> None:
    """Make sure that an override names an option of a group, or a list of them.

    Raises:
        UsageError: it names nothing.
    """
    if isinstance(pattern := override.value(), Glob):
        if not group.startswith("hydra/") and not pattern.filter(options(group)):
            raise UsageError(
                f"{override.input_line}: no {group} has such a name. {choices('', options(group))}"
            )
        return
    swept = override.is_discrete_sweep()
    for value in override.sweep_iterator() if swept else [override.value()]:
        names = value if isinstance(value, list) else [value]
        merged = group not in ROLES and f"{group}.*" in ROLES  # callbacks, say: each has its own node
        if len(names) > 1 and not merged and not group.startswith("hydra/"):
            sweep = f"-m {group}={','.join(map(str, names))}"
            raise UsageError(f"{override.input_line}: one {group} is chosen. To train with each: {sweep}")
        if not names or not all(isinstance(name, str | QuotedString) for name in names):
            if group.startswith("hydra/"):
                raise UsageError(f"{override.input_line}: it names no {group}. Leave it out for Hydra's own.")
            known = options(group)
            none = f"To have none, say {group}=none. " if "none" in known else ""
            raise UsageError(f"{override.input_line}: it names no {group}. {none}{choices('', known)}")
        for name in map(str, names):  # Hydra takes them, and they would be other options to all tables
            if name.endswith((".yaml", ".yml")) or {".", ".."} & set(name.split("/")):
                plain = Path(name).with_suffix("").name
                raise UsageError(f"{group}={name}: no such {group}. {choices(plain, options(group))}")


def folders() -> list[Path]:
    """Return the folders of options: conf/, and the one that the command line adds."""
    further = []
    for argument, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=False):
        option, equals, folder = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            further.append(Path(folder if equals else following))
    return [CONF, *further]


def all_groups() -> list[str]:
    """Return the groups of options."""
    found = {
        path.name for folder in folders() if folder.is_dir() for path in folder.iterdir() if path.is_dir()
    }
    return sorted(name for name in found if name not in NO_GROUPS and name[0] not in "._")


def options(group: str) -> list[str]:
    """Return the options of a group; those that start with _ are for others to build on."""
    found = {
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders()
        for path in (folder / group).rglob("*.yaml")
    }
    return usable(found)


def usable(names: Iterable[str]) -> list[str]:
    """Return the options that a command line may choose, sorted."""
    return sorted(name for name in names if "/_" not in f"/{name}")


def choices_text() -> str:
    """Return all groups with their options for ``--help``, the default one in brackets."""
    known = OmegaConf.load(CONF / "config.yaml").defaults
    default = {group: option for item in known if isinstance(item, Mapping) for group, option in item.items()}
    lines = []
    for group in all_groups():
        shown = {name if "/" not in name else f"{name.partition('/')[0]}/..." for name in options(group)}
        named = (f"[{name}]" if name == default.get(group) else name for name in sorted(shown))
        lines.append(f"  {group + ':':<12}{', '.join(named)}")
    return "\n".join(fill(line, 100, subsequent_indent=" " * 14, break_on_hyphens=False) for line in lines)


def unreadable(override: str) -> str:
    """Say that Hydra cannot read an override, and how it is typed in a shell.

    Raises:
        UsageError: it cannot be typed at all.
    """
    key, equals, value = override.partition("=")
    if key == "name":
        check_whole({key: value})
    closed = [] if key in TEXTS or len(value) < 2 else [f"{override}]", f"{override}}}"]
    right = next((form for form in [*closed, quoted(key, value)] if equals and parsed(form)), None)
    if right is None:
        return f"cannot read {override}: an override is KEY=VALUE; one with spaces is quoted as a whole."
    how = "close the bracket" if right in closed else "quote such a text, for Hydra and for the shell"
    return f"cannot read {override}: {how}: {in_shell(right)}"


def several(override: str) -> str:
    """Say what an override with commas may mean."""
    key, _, value = override.partition("=")
    return (
        f"{override}: several values. To sweep over them add -m (--multirun). A list is "
        f"{in_shell(f'{key}=[{value}]')}, one text with commas {in_shell(quoted(key, value))}"
    )


def in_shell(word: str) -> str:
    """Return a word as a shell takes it, as readable as it can be."""
    plain = shlex.quote(word)
    readable = "'" in word and not SHELL & set(word.replace("\\'", ""))
    return f'"{word}"' if readable else plain


OmegaConf.register_new_resolver("choices", choices_text, replace=True)
