"""`python -m bench [NAME…]`: measures and prints each budget."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from bench.measurement import Measurement, UnavailableError

SUBJECTS = (
    "startup",
    "reading",
    "conversion",
    "gates",
    "publish",
    "rollback",
    "container",
    "server",
    "throughput",
    "bundle",
    "memory",
    "scale",
    "daemon",
    "store",
)


def main() -> int:
    """Returns 1 where a subject failed, or, with --strict, where a budget was missed."""
    arguments = _parse()
    measured: list[Measurement] = []
    unavailable: dict[str, str] = {}
    failed: dict[str, str] = {}
    for subject in arguments.names or SUBJECTS:
        print(f"measuring {subject} …", file=sys.stderr)
        try:
            measured += _run(subject, arguments.publish_mib)
        except UnavailableError as reason:
            unavailable[subject] = str(reason)
        except (RuntimeError, OSError, ImportError) as error:
            failed[subject] = f"{type(error).__name__}: {error}"
    if arguments.json:
        print(json.dumps(_document(measured, unavailable, failed), indent=1))
    else:
        _print_table(measured, unavailable, failed)
    missed = arguments.strict and not all(measurement.within_budget for measurement in measured)
    return 1 if failed or missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures each budget as a ratio.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*SUBJECTS, []], help=", ".join(SUBJECTS))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a budget is missed")
    parser.add_argument("--publish-mib", type=int, default=2048, help="size of the published export")
    return parser.parse_args()


def _run(subject: str, publish_mib: int) -> list[Measurement]:
    if subject == "publish":
        from bench import publish

        return publish.run(publish_mib << 20)
    run = importlib.import_module(f"bench.{subject}").run
    return list(run())


def _document(
    measured: Sequence[Measurement], unavailable: dict[str, str], failed: dict[str, str]
) -> dict[str, object]:
    return {
        "schema": 1,
        "measurements": [{**asdict(each), "within_budget": each.within_budget} for each in measured],
        "unavailable": unavailable,
        "failed": failed,
    }


def _print_table(measured: Sequence[Measurement], unavailable: dict[str, str], failed: dict[str, str]) -> None:
    rows: list[tuple[str, ...]] = [("WHAT", "OURS", "THE OTHER", "RATIO", "BUDGET", "", "NOTE")]
    rows += [_row(measurement) for measurement in measured]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for subject, reason in unavailable.items():
        print(f"{subject}: not measured: {reason}")
    for subject, reason in failed.items():
        print(f"{subject}: failed: {reason}")


def _row(measurement: Measurement) -> tuple[str, ...]:
    unit = measurement.unit
    other = f"{_amount(measurement.other_s, unit)}  {measurement.other}" if measurement.other_s is not None else "-"
    ratio = f"{measurement.ratio:.3g}" if measurement.ratio is not None else "-"
    budget = f"{measurement.budget:.3g}" if measurement.ratio is not None else _amount(measurement.budget, unit)
    verdict = "ok" if measurement.within_budget else "over"
    return (measurement.name, _amount(measurement.ours_s, unit), other, ratio, budget, verdict, measurement.note)


def _amount(amount: float, unit: str) -> str:
    if unit != "s":
        return f"{amount:.3g} {unit}"
    return f"{amount * 1000:.3g} ms" if amount < 1 else f"{amount:.3g} s"


if __name__ == "__main__":
    sys.exit(main())
