"""What the tests share stands in fixtures.py. A process that only hands out tests imports none of it."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Import it where tests run: in each of several processes, or in the only one."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tests.fixtures")
