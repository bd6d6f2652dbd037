"""Runs the command as `python -m deployctl.cli`, and as the script that is installed."""

import gc
import sys

# The modules of a command make some 200,000 objects, nearly all of which stay. Looking through them for garbage
# again and again, as every 700 new ones would have it, takes a tenth of a rollback's time.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    """Runs the command line of this process; Ctrl-C while it is still being loaded ends it without a trace."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        from deployctl.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # All that is left goes with the process: to look for garbage in it takes a tenth of a second more.
        gc.freeze()


if __name__ == "__main__":
    main()
