"""What is read most, over a thousand models of a hundred versions against ten of ten."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from datetime import UTC, datetime

from bench.measurement import Measurement, compare
from bench.project import Project, scratch_project
from deployctl.domain.event import Actor, EventKind, NewEvent
from deployctl.domain.manifest import FileEntry, Manifest, Provenance, to_json
from deployctl.domain.names import ModelName, VersionNumber

_PAIRS = 9
_LARGE, _SMALL = (1000, 100), (10, 10)
_COMMANDS = (("status",), ("history",), ("versions", "model-0007"))


def run() -> list[Measurement]:
    """Measures status, history and versions; the large repository takes a minute or two to make."""
    with ExitStack() as stack:
        large, small = (_filled(stack.enter_context(scratch_project()), *size) for size in (_LARGE, _SMALL))
        return [_measure(large, small, words) for words in _COMMANDS]


def _measure(large: Project, small: Project, words: tuple[str, ...]) -> Measurement:
    return compare(
        f"deployctl {words[0]}, 1,000 x 100",
        lambda: large.run(*words),
        lambda: small.run(*words),
        than="10 x 10",
        budget=1.3,
        pairs=_PAIRS,
    )


def _filled(project: Project, models: int, versions: int) -> Project:
    """Puts versions into the repository, and records them as publishing does."""
    from deployctl.lineage.store import SqlLineageStore

    with SqlLineageStore(f"sqlite:///{project.directory / 'deployctl.db'}") as store:
        for model in (ModelName(f"model-{number:04}") for number in range(models)):
            with store.transaction() as transaction:
                for version in (VersionNumber(number + 1) for number in range(versions)):
                    directory = project.directory / "models" / model / str(version)
                    directory.mkdir(parents=True)
                    (directory / "saved_model.pb").write_bytes(b"")
                    transaction.append(_published(model, version))
    return project


def _published(model: ModelName, version: VersionNumber) -> NewEvent:
    at = datetime.now(UTC)
    content = hashlib.sha256(f"{model}@{version}".encode()).hexdigest()
    entry = FileEntry("saved_model.pb", 4096, content)
    manifest = Manifest(model, version, (entry,), {}, {}, Provenance(source="exports"), at, "bench@here")
    return NewEvent(
        EventKind.VERSION_PUBLISHED,
        at,
        Actor("bench", "here"),
        operation=f"{model}-{version}",
        model=model,
        data={"version": version, "digest": manifest.digest, "manifest": json.loads(to_json(manifest))},
    )
