"""What cannot be right in the settings of notifications, whatever the environment holds."""

from __future__ import annotations

from collections.abc import Mapping

from deployctl.config.daemon_settings import NotificationSettings
from deployctl.errors import SettingsError


def check_notifications(channels: Mapping[str, NotificationSettings]) -> None:
    """Raises SettingsError for the first channel that names no URL, two, an unknown event, or that can never call."""
    for name, channel in channels.items():
        problem = _problem(channel)
        if problem:
            raise SettingsError(f"notifications.{name}{problem}", hint="deployctl config show")


def _problem(channel: NotificationSettings) -> str:
    if bool(channel.url) == bool(channel.url_env):
        return " must have either url or url_env" if not channel.url else " has both url and url_env"
    if channel.url and not channel.url.startswith(("http://", "https://")):
        # Not repeated: it may be a secret.
        return ".url does not begin with http:// or https://"
    unknown = _unknown(channel)
    if unknown:
        return unknown
    if channel.timeout_s == 0 or channel.attempts == 0:
        return f".{'timeout_s' if channel.timeout_s == 0 else 'attempts'} = 0 would never reach anybody"
    return ""


def _unknown(channel: NotificationSettings) -> str:
    if not channel.events:
        return ""
    # Not on the path of every command.
    from deployctl.domain.occasion import Occasion

    known = {each.value for each in Occasion}
    unknown = next((name for name in channel.events if name not in known), None)
    return "" if unknown is None else f".events names {unknown!r}, which is none of {', '.join(sorted(known))}"
