"""Turns a config node that names a ``_target_`` into the object it describes, checked by its own signature.

What a value may be stands where it is used: ``dropout: Annotated[float, Field(ge=0, lt=1)]``.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, NamedTuple, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from fmnist_lit.constraints import LIMITS, Node
from fmnist_lit.errors import UsageError, UserError, choices

TARGET = "_target_"
# From where a reader of a run directory builds: what comes by mail is data, not a program.
TRUSTED = ("fmnist_lit", "torch.nn", "torch.optim")
# Faults that say what class a value is not, and those that need other words than pydantic's.
OF_CLASSES = ("is_instance_of", "needs_python_object", "is_subclass_of")
WORDS = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "{kind} number, more than {gt:.15g}",
    "greater_than_equal": "{kind} number, {ge:.15g} or more",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "{kind} number, less than {lt:.15g}",
    "less_than_equal": "{kind} number, {le:.15g} at most",
    "list_type": "a list",
    "missing": "a list of {needed} elements",
    "multiple_of": "{kind} number, a multiple of {multiple_of}",
    "none_required": "null",
    "string_too_short": "text, not empty",
    "string_type": "text",
    "too_long": "a list of {max_length} elements at most",
    "too_short": "a list of {min_length} elements or more",
    "tuple_type": "a list",
}
RULES = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


TARGET_TFLOP = "target_tflop"  # the one key of a trainer that Lightning does not know
CLASSES = ("classes", "num_classes")  # how many, by either name


class Role(NamedTuple):
    """What a node of a group must describe.

    Args:
        base: a class; the target is one of its kind. Of a group that names no target, it is the target.
        returns: or a function that is annotated to return this.
        given: arguments that a run gives, so that no config may.
        offered: arguments that a run gives where a config does not.
    """

    base: str
    returns: str | None = None
    given: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()


ROLES = {
    "augment.*": Role("collections.abc.Callable", offered=CLASSES),
    "callbacks.*": Role("lightning.pytorch.Callback", given=("directory", "signals", "computed")),
    "data": Role(
        "fmnist_lit.data.datamodule.DataModule",
        given=("seed", "augmentations", "steps_per_execution", "rank", "world_size"),
    ),
    "data.images": Role("fmnist_lit.data.dataset.Images", "fmnist_lit.data.dataset.Images", ("fetch",)),
    "logger.*": Role("lightning.pytorch.loggers.Logger", given=("save_dir",)),
    "metrics.*": Role("torchmetrics.Metric", offered=CLASSES),
    "model": Role("torch.nn.Module", offered=CLASSES),
    "model.*": Role("torch.nn.Module"),
    "optim": Role("torch.optim.Optimizer", given=("params",)),
    "patch": Role("torch.nn.Module"),
    "schedule": Role("torch.optim.lr_scheduler.LRScheduler", "fmnist_lit.schedules.Schedule", ("optimizer",)),
    "trainer": Role(
        "lightning.pytorch.Trainer", given=("callbacks", "logger", "plugins", "default_root_dir")
    ),
}


def role_of(key: str) -> Role:
    """Return the role of a node by its dotted key.

    Raises:
        UsageError: no node is built there.
    """
    role = ROLES.get(key) or ROLES.get(f"{key.rpartition('.')[0]}.*")
    if role is None:
        raise UsageError(f"{key}.{TARGET}: nothing is built here. {choices(key, ROLES)}")
    return role


def locate(target: str, key: str = TARGET) -> Any:
    """Import what a target names.

    Args:
        key: of the target, for the message.

    Raises:
        UsageError: there is no such thing; the message names what is near.
    """
    found: Any = None
    path = ""
    for part in target.split("."):
        inside, longer = found, f"{path}.{part}".lstrip(".")
        found = getattr(inside, part, None)  # which may be false, or empty
        found = module_named(longer) if found is None else found
        if found is None:
            raise UsageError(f"{key}={target}: {path or 'Python'} has no {part}. {near(part, inside)}")
        path = longer
    return found


def module_named(name: str) -> ModuleType | None:
    """Import a module; return None if there is none of that name."""
    try:
        return import_module(name) if name else None
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            return None
        raise  # it is there, and what it imports is not


def near(part: str, inside: Any) -> str:
    """Say what a module has instead of a part."""
    if inside is None:
        return "Is it installed, or its folder in PYTHONPATH?"
    owner = str(getattr(inside, "__name__", ""))
    own = [name for name in dir(inside) if home_of(getattr(inside, name, None)).startswith(owner)]
    modules = [module.name for module in iter_modules(getattr(inside, "__path__", ()))]
    return choices(part, [name for name in (*own, *modules) if not name.startswith("_")])


def home_of(value: Any) -> str:
    """Return the module in which something was made; of a module its own name."""
    return str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))


def is_inside(target: str, packages: Sequence[str]) -> bool:
    """Whether a target is in one of the packages."""
    return target.startswith(tuple(f"{package}." for package in packages))


def target_of(node: Mapping[str, Any], key: str, trusted: Sequence[str] | None) -> Any:
    """Return what a node's target names, if it has the role of its group.

    Raises:
        UsageError: it has not, or is not from a trusted package.
    """
    where = f"{key}.{TARGET}"
    if not isinstance(node.get(TARGET), str):
        raise UsageError(f"{where}: this key is missing, or no text; it names what is built.")
    target = node[TARGET]
    if trusted is not None and not is_inside(target, trusted):
        raise UsageError(
            f"{where}={target}: only targets from {', '.join(trusted)} are built here. A run that needs more "
            f"is to be trusted by name: trust={target.partition('.')[0]} after resume=RUN, "
            f"--trust {target.partition('.')[0]} for a script"
        )
    role, found = role_of(key), locate(target, where)
    if inspect.isclass(found):
        fits = issubclass(found, locate(role.base))
    else:  # a function that does not say what it returns may do anything
        fits = bool(role.returns) and returns(found, (locate(role.base), locate(str(role.returns))))
    if not fits:
        function = f" or a function annotated to return one (-> {role.base})" if role.returns else ""
        raise UsageError(f"{where}={target}: {key} must be a {role.base}{function}, and this is none.")
    return found


def returns(function: Any, types: tuple[Any, Any]) -> bool:
    """Whether a function says that it returns one of two types, of which the first is a class."""
    said = hints_of(function).get("return")
    return said in types or (inspect.isclass(said) and issubclass(said, types[0]))


def hints_of(function: Any) -> dict[str, Any]:
    """Return the types of a function's arguments; none if they name what is not imported."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}


@cache
def arguments_model(target: Any, given: tuple[str, ...]) -> type[BaseModel]:
    """Turn a signature into a model of the keys that a config may set.

    Fields are numbered, their aliases are the names: a model has methods that arguments may be called like.
    """
    hints = hints_of(target.__init__ if inspect.isclass(target) else target)
    if str(target.__module__).startswith(("torch.", "lightning.")):
        hints |= LIMITS
    fields: dict[str, Any] = {}
    rules = RULES
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            rules = RULES | ConfigDict(extra="allow")
        elif name not in given and parameter.kind is not parameter.VAR_POSITIONAL:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[f"field_{len(fields)}"] = (checkable(hints.get(name, Any)), Field(default, alias=name))
    model: type[BaseModel] = create_model(target.__name__, __config__=rules, **fields)
    return model


def checkable(hint: Any) -> Any:
    """Return a type that pydantic can check values of, Any where it knows none. A data class is a node's."""
    if is_dataclass(hint):
        return Node
    try:
        create_model("Value", __config__=RULES, value=(hint, ...))
    except (PydanticUserError, TypeError):
        return Any
    return hint


def arguments_of(node: Mapping[str, Any], key: str) -> type[BaseModel]:
    """Return the model of what a node's class takes, whatever the node holds of it.

    Raises:
        UsageError: it has no class.
    """
    role = role_of(key)
    return arguments_model(locate(str(node.get(TARGET, role.base))), role.given)


@cache
def trainer_arguments() -> type[BaseModel]:
    """Return the model of the Trainer's flags and of our own, without what a run gives."""
    flags = arguments_of({}, "trainer")
    target = (Annotated[float, Field(gt=0)] | None, Field(None, alias=TARGET_TFLOP))
    model: type[BaseModel] = create_model("Trainer", __base__=flags, **{"target": target})  # type: ignore[call-overload]
    return model


def check_node(
    node: Mapping[str, Any], key: str, trusted: Sequence[str] | None = None, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Check a node, and the nodes in it, by the signatures of their targets.

    Args:
        key: of the node, with dots.
        trusted: packages from which targets may come; None: any, for their owner wrote them.
        given: further arguments that the node need not hold.

    Returns:
        The arguments as the signature's types have them; a node in it is left as it is.

    Raises:
        UsageError: the first fault, and what would be right.
    """
    target, role = target_of(node, key, trusted), role_of(key)
    known = inspect.signature(target).parameters
    nodes = {name: value for name, value in node.items() if is_node(value) and name in known}
    values = {name: value for name, value in node.items() if name not in (TARGET, *nodes)}
    offered = (name for name in role.offered if name not in node)
    model = arguments_model(target, (*role.given, *given, *offered, *sorted(nodes)))
    arguments = nodes | checked(model, values, f"{key}.")
    for name, value in arguments.items():
        if is_node(value):
            check_node(value, f"{key}.{name}", trusted)
    return arguments


def checked(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values as a model's types have them.

    Raises:
        UsageError: the first fault, and what would be right.
    """
    try:
        found = model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError(fault(error, model, values, prefix)) from error
    names = dict(zip(model.model_fields, known_keys(model), strict=True))
    return {names.get(field, field): value for field, value in found if field in found.model_fields_set}


def known_keys(model: type[BaseModel]) -> list[str]:
    """Return the keys that a model has."""
    return [field.alias or name for name, field in model.model_fields.items()]


def fault(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> str:
    """Say in a sentence what is wrong with the first value that is."""
    faults = error.errors(include_url=False)
    name = str(faults[0]["loc"][0])
    key = f"{prefix}{name}"
    if faults[0]["type"] == "extra_forbidden":
        return f"{key}: no such key. {choices(name, known_keys(model))}"
    if faults[0]["type"] == "missing" and len(faults[0]["loc"]) == 1:
        return f"{key}: this key is missing; {model.__name__ if prefix else 'a run'} needs it."
    # A value that may be of several types has a fault for each; one about a class helps nobody who types.
    about = [one for one in faults if one["loc"][0] == name and one["type"] not in OF_CLASSES] or faults[:1]
    known = [one["ctx"]["expected"] for one in about if one["type"] == "literal_error"]
    words = [in_words(one, values[name], len(about)) for one in about if one["type"] != "literal_error"]
    if known:
        names = ", ".join(known).replace(" or ", ", ").replace("'", "").split(", ")
        words.insert(0, f"{'one of ' if len(names) > 1 else ''}{', '.join(dict.fromkeys(names))}")
    return f"{key}={as_typed(values[name])}: it must be {' or '.join(dict.fromkeys(words))}."


def as_typed(value: Any) -> str:
    """Return a value as the command line has it, on one line and without what steers a terminal."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and not (value and value.isprintable()):
        return repr(value)
    return f"[{', '.join(map(as_typed, value))}]" if isinstance(value, list) else str(value)


def in_words(fault: Mapping[str, Any], value: Any, faults: int) -> str:
    """Say what a value should have been.

    Args:
        faults: of this value.
    """
    limits = dict(fault.get("ctx", {}))
    limits["kind"] = "a whole" if any(type(limit) is int for limit in limits.values()) else "a"
    if fault["type"] == "missing":  # of a tuple's elements
        limits["needed"] = len(value) + faults
    if fault["type"] == "list_type" and isinstance(value, str):
        return f"a list: [{value}]"
    if fault["type"] in WORDS:
        return WORDS[fault["type"]].format(**limits)
    return str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")


def build(
    node: Mapping[str, Any],
    key: str,
    *arguments: Any,
    trusted: Sequence[str] | None = None,
    **facts: Any,
) -> Any:
    """Call a node's target with its keys; nodes inside it are built first.

    Args:
        key: of the node, with dots; it says which role the target must have.
        arguments: positional arguments before them, which no config can know (parameters, say).
        trusted: packages from which targets may come; None: any.
        facts: of the run, for a target that has an argument of that name which the config leaves open.

    Raises:
        UsageError: a fault of the node, or whatever the target says of it.
    """
    target = target_of(node, key, trusted)
    known = inspect.signature(target).parameters
    if "classes" in facts:
        facts["num_classes"] = facts["classes"]
    wanted = {name: fact for name, fact in facts.items() if name in known and name not in node}
    named = {
        name: build(value, f"{key}.{name}", trusted=trusted) if is_node(value) else value
        for name, value in check_node(node, key, trusted, tuple(wanted)).items()
    }
    try:
        return target(*arguments, **named, **wanted)
    except (AssertionError, UserError):
        raise
    except Exception as error:  # whatever a class has to say of its arguments
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{key} ({target.__name__}): {said}") from error


def build_group(config: Mapping[str, Any], group: str, **facts: Any) -> dict[str, Any]:
    """Build all nodes of a config's group by name, as ``build`` does; null leaves one out."""
    nodes = {name: node for name, node in config[group].items() if node is not None}
    return {name: build(node, f"{group}.{name}", **facts) for name, node in nodes.items()}


def is_node(value: Any) -> bool:
    """Whether a value describes an object."""
    return isinstance(value, Mapping) and TARGET in value
