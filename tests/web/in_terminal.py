"""Serves an app as a command of the terminal that is its standard input: the leader of a session.

python -m tests.web.in_terminal MODULE:NAME [OPTIONS]
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

from chatkit_trio.cli import main

if __name__ == "__main__":
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    main(["serve", "--port", "0", "--drain-timeout", "0.1", *sys.argv[1:]])
