"""What the tests share stands in fixtures.py; a process that only hands tests out to others imports none of it."""

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in sys.argv:
    pytest_plugins = ["tests.fixtures"]
