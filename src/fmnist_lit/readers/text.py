"""Texts from foreign words: Markdown, HTML and CSV in which nothing is markup, and the templates of pages."""

import re
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import normalize

from jinja2 import Environment, PackageLoader, StrictUndefined

from fmnist_lit.errors import printable

SIGNS = ("=", "+", "-", "@")  # spreadsheets take such text for a formula


def markdown(text: object, most: int = 200) -> str:
    """Return a text for Markdown in which nothing is markup, link or HTML."""
    return re.sub(r"([\\`*]|(?<=\])[(\[:])", r"\\\1", printable(text, most)).replace("<", "&lt;")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a Markdown table of texts that are Markdown.

    Args:
        numbers: of the columns before the last; they are aligned to the right.
    """
    rule = ["---"] * (len(headings) - numbers - 1) + ["---:"] * numbers + ["---"]
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (headings, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def no_formula(value: Any) -> Any:
    """Return a value as a spreadsheet may read it: text that looks like a formula gets an apostrophe."""
    if not isinstance(value, str) or value == "-" or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value):
        return value
    text = printable(value, most=len(value))
    return f"'{text}" if normalize("NFKC", value.lstrip()).startswith(SIGNS) else text


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
    templates.filters |= {"markdown": markdown, "printable": printable}
    templates.globals["table"] = markdown_table
    return templates.get_template(template).render(values)
