"""Examples in docstrings do what they show."""

import doctest
from importlib import import_module
from pkgutil import iter_modules

import pytest

import fmnist_lit.models

MODULES = [
    "fmnist_lit.schedules",
    "fmnist_lit.data.augment",
    *(f"fmnist_lit.models.{module.name}" for module in iter_modules(fmnist_lit.models.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples() -> None:
    examples = [test for name in MODULES for test in doctest.DocTestFinder().find(import_module(name))]
    assert sum(bool(test.examples) for test in examples) >= 8
