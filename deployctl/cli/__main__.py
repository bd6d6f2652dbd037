"""Runs the command as `python -m deployctl.cli`."""

import sys

try:
    from deployctl.cli.app import main
except KeyboardInterrupt:
    # Ctrl-C before there is a command: nothing was begun.
    sys.exit(130)

main()
