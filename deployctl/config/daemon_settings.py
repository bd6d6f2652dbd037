"""Settings of the daemon: what it watches, what follows, whom it tells, and where it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deployctl.config.definition import DURATION, SIZE, setting


class DriftPolicy(StrEnum):
    """What the daemon does where a server serves something else than what is recorded."""

    REPAIR = "repair"
    REPORT = "report"


class Afterwards(StrEnum):
    """Where an export goes once it is published."""

    KEEP = "keep"
    MOVE = "move"


class NotificationFormat(StrEnum):
    """What a notification looks like."""

    JSON = "json"
    SLACK = "slack"


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """How the daemon runs."""

    listen: str = setting(
        "Address and port of the HTTP API, such as `127.0.0.1:8510`; port 0 takes a free one. Empty: no API.",
        default="127.0.0.1:8510",
    )
    tls_cert_file: str = setting("Certificate of the HTTP API, in PEM. Empty: no TLS.", default="")
    tls_key_file: str = setting("Private key of that certificate, in PEM.", default="")
    lease_s: float = setting(
        "How long a daemon that has died leads: another one that stands by takes over within this time.",
        default=15.0,
        kind=DURATION,
    )
    stop_timeout_s: float = setting(
        "How long steps in progress may take to finish when the daemon is told to end; what is longer is parked, and "
        "settled at the next start.",
        default=8.0,
        kind=DURATION,
    )
    reconcile_interval_s: float = setting(
        "How often what each target serves is compared with what is recorded.", default=5.0, kind=DURATION
    )
    drift: DriftPolicy = setting(
        'What is done where a server serves something else than what is recorded: "repair" or "report".',
        default=DriftPolicy.REPAIR,
    )
    publish_from: tuple[str, ...] = setting(
        "Directories, relative to the settings file, and `s3://BUCKET/PREFIX` URLs below which exports may be that "
        "clients of the HTTP API have published by their path. Inboxes always are.",
        default=(),
    )
    max_upload: int = setting("Bytes that one uploaded export may have; 0: no bound.", default=0, kind=SIZE)


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How the daemon looks after a target's server."""

    start: bool = setting("Whether the server is started where it is down and has something to serve.", default=True)
    probe_interval_s: float = setting(
        "How often each serving version is asked its golden requests; 0: never.", default=30.0, kind=DURATION
    )
    soak_s: float = setting(
        "How long after a promotion the version is watched; what served before is restored, once, where it answers "
        "worse. 0: never.",
        default=0.0,
        kind=DURATION,
    )


@dataclass(frozen=True, slots=True)
class InboxSettings:
    """A directory, or an S3 prefix, whose exports (`<path>/<model>/<anything>`) the daemon publishes."""

    path: str = setting("The directory, relative to the settings file, or `s3://BUCKET/PREFIX`.", default="")
    marker: str = setting(
        "File whose presence says that an export is complete, such as `_SUCCESS`; nothing else does then. Of an "
        "archive `run.zip` it is `run.zip._SUCCESS`. Empty: a rename into place, or `settle_s`.",
        default="",
    )
    settle_s: float = setting(
        "How long an export that was not renamed into place must have stayed as it is.", default=10.0, kind=DURATION
    )
    stalled_s: float = setting(
        "How long an export that has settled but is not whole may stay as it is before it is refused.",
        default=600.0,
        kind=DURATION,
    )
    poll_interval_s: float = setting(
        "How often the inbox is looked through, whatever the file system tells; less often where a look takes long.",
        default=5.0,
        kind=DURATION,
    )
    published: Afterwards = setting(
        'Where a published export goes: "keep" (it stays) or "move" (into `done_path`).', default=Afterwards.KEEP
    )
    done_path: str = setting("Where published exports are moved; empty: `<path>.done`.", default="")
    failed_path: str = setting("Where refused exports are moved, with a report; empty: `<path>.failed`.", default="")


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What follows when an inbox has published a version; the first rule that names the model applies."""

    models: tuple[str, ...] = setting("Models by name; `*` and `?` stand for any letters.", default=("*",))
    promote: tuple[str, ...] = setting("Targets to promote the version on, one after the other.", default=())
    canary: bool = setting("Whether only the label `canary` moves there.", default=False)
    keep: int = setting(
        "How many of the newest versions are kept; older ones that no target holds are retired. 0: all.", default=0
    )


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """A webhook that the daemon calls."""

    url: str = setting("URL to call; for one that is itself a secret, `url_env`.", default="")
    url_env: str = setting("Variable of the daemon's environment with the URL.", default="")
    format: NotificationFormat = setting(
        'What is sent: "json", or "slack" (a text, as Slack-compatible webhooks take).', default=NotificationFormat.JSON
    )
    secret_env: str = setting(
        "Variable of the daemon's environment with the key of the HMAC-SHA256 signature. Empty: unsigned.", default=""
    )
    events: tuple[str, ...] = setting(
        "What it is called for, such as `promoted` or `drift`; empty: everything.", default=()
    )
    timeout_s: float = setting("How long a call may take.", default=10.0, kind=DURATION)
    retry_s: float = setting(
        "How long after a call that failed it is made again; the pause doubles with each.", default=2.0, kind=DURATION
    )
    max_retry_s: float = setting("What that pause does not grow beyond.", default=3600.0, kind=DURATION)
    attempts: int = setting(
        "How often a call is made before it is given up, and kept for `deployctl notifications retry`.", default=20
    )
