"""`python tests/autobahn`, or from the folder `tests`: `python -m autobahn`."""

import signal
import sys
from pathlib import Path

if not __package__:
    # Started by its folder's name: the package is imported by its own, and its modules shadow nobody else's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from autobahn.cli import main

if __name__ == "__main__":
    # As Ctrl-C does, so that no server and no fuzzing client stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
