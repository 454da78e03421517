"""What the tests share stands in fixtures.py. A process that only hands out tests imports none of it."""

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in sys.argv:
    pytest_plugins = ["tests.fixtures"]
