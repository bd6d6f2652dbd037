"""Runs the command as `python -m deployctl.cli`, and as the script that is installed."""

import sys


def main() -> None:
    """Runs the command line of this process; Ctrl-C while it is still being loaded ends it without a trace."""
    try:
        from deployctl.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
