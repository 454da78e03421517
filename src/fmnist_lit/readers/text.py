"""Texts from foreign words: Markdown, HTML and CSV in which nothing is markup, and the templates of pages."""

import re
from typing import Any
from unicodedata import normalize

from jinja2 import Environment, PackageLoader, StrictUndefined

from fmnist_lit.errors import printable

SIGNS = ("=", "+", "-", "@")  # spreadsheets take such text for a formula


def markdown(text: object, most: int = 200) -> str:
    """Return a text for Markdown in which nothing is markup, link, HTML or the end of a table's cell."""
    return re.sub(r"([\\`*|]|(?<=\])[(\[:])", r"\\\1", printable(text, most)).replace("<", "&lt;")


def number(value: float | None, form: str) -> str:
    """Return a number as text, "-" for none."""
    return "-" if value is None else format(value, form)


def no_formula(value: Any) -> Any:
    """Return a value as a spreadsheet may read it: text that looks like a formula gets an apostrophe."""
    if not isinstance(value, str) or value == "-" or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value):
        return value
    text = printable(value, most=len(value))
    return f"'{text}" if normalize("NFKC", value.lstrip()).startswith(SIGNS) else text


def last_name(target: object) -> str:
    """Return a class's name without its module."""
    return str(target).rpartition(".")[2]


def filled(text: str, **values: Any) -> str:
    """Fill a template that is a text of the project itself."""
    return Environment(undefined=StrictUndefined).from_string(text).render(values)


def render(template: str, **values: Any) -> str:
    """Fill a template of ``templates/``; in HTML every value is escaped."""
    templates = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    further = (markdown, number, printable, last_name)
    templates.filters |= {function.__name__: function for function in further}
    return templates.get_template(template).render(values)
