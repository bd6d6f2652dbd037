"""Gates that other packages bring, by entry points of the group `deployctl.gates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployctl.errors import SettingsError
from deployctl.gates.interface import Gate

ENTRY_POINTS = "deployctl.gates"
_HINT = "deployctl config show --origin"


def third_party_gate(name: str, options: Mapping[str, str], *, known: Sequence[str]) -> Gate:
    """Returns the gate that a package gives by the entry point `name`.

    Args:
        name: as targets list it.
        options: what the target's settings say of it.
        known: the gates that are built in, for the error.

    Raises:
        SettingsError: there is none of that name, it cannot be imported, or it makes no gate of the options.
    """
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if found is None:
        raise SettingsError(f"there is no gate {name!r}, only {', '.join(known)}", hint=_HINT)
    # What strangers wrote may raise anything, also what would end the process with success.
    try:
        make = found.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001
        words = f"the gate {name!r} cannot be imported from {found.value}: {told(error)}"
        raise SettingsError(words, hint="pip check") from error
    try:
        gate = make(dict(options))
    except (Exception, SystemExit) as error:  # noqa: BLE001
        given = ", ".join(f"{name}.{key}={value}" for key, value in options.items()) or "no options"
        raise SettingsError(f"the gate {name!r} cannot be made with {given}: {told(error)}", hint=_HINT) from error
    if not isinstance(gate, Gate) or not isinstance(getattr(gate, "name", None), str):
        raise SettingsError(f"the entry point {found.value} of the gate {name!r} makes no Gate with a name", hint=_HINT)
    return gate


def told(error: BaseException) -> str:
    """Returns an error that is not ours as words: "ValueError: abc is no number"."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
