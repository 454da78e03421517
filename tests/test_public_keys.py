"""The keys that a command line may name are a promise: who breaks one must touch ``public_keys.txt``.

After a change that is meant: ``make schemas``, or ``python -m tests.test_public_keys``.
"""

from pathlib import Path

import yaml

from tests.fixtures import ROOT

KEYS = Path(__file__).with_name("public_keys.txt")
CONF = ROOT / "conf"
# Options that choose of other groups, and what somebody's search found: they add no key.
CHOOSING = ("experiment", "sweep", "search", "hydra")


def public_keys() -> list[str]:
    """List every group, every option, and every dotted key of each."""
    keys = dict(leaves(CONF / "config.yaml", ""))
    for file in sorted(CONF.glob("*/*.yaml")):
        group = file.parent.name
        if group in CHOOSING:
            continue
        if not file.stem.startswith("_"):
            keys[f"{group}={file.stem}"] = None
        of_all = "@package _global_" in file.read_text()
        keys |= dict(leaves(file, "" if of_all else f"{group}."))
    return sorted(keys)


def leaves(file: Path, prefix: str) -> list[tuple[str, None]]:
    """List the keys that a file sets."""
    found: list[tuple[str, None]] = []

    def add(node: object, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                add(value, f"{key}.{name}" if key else str(name))
        else:
            found.append((key, None))

    content = yaml.safe_load(file.read_text()) or {}
    for name, value in content.items():
        if name not in ("defaults", "hydra"):
            add(value, f"{prefix}{name}")
    return found


def test_no_public_key_is_lost() -> None:
    """An option or a key more breaks no command line; ``make schemas`` promises it from then on."""
    lost = set(KEYS.read_text().split()) - set(public_keys())
    assert not lost, "if that is meant: make schemas"


if __name__ == "__main__":
    KEYS.write_text("\n".join(public_keys()) + "\n")
