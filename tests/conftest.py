"""What the tests share stands in fixtures.py. A process that only hands out tests imports none of it."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Import it where tests run: in each of several processes, or in the only one."""
    # Some tests send these, which a shell lets what runs in the background ignore, as nohup does.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests before each half of the others, so that no process of two ends with one."""
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if item not in long]
    half = len(others) // 2
    items[:] = [*long[::2], *others[:half], *long[1::2], *others[half:]]
