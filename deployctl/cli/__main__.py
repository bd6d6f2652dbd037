"""Runs the command as `python -m deployctl.cli`."""

from deployctl.cli.app import main

main()
