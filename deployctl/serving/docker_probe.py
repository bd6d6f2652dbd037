"""What `doctor` asks a Docker engine: has it the image, and does a container see what this machine sees?"""

from __future__ import annotations

import os

from deployctl.domain.serving import PullPolicy
from deployctl.errors import BasePathNotVisibleError, ImageMissingError, StorageError
from deployctl.serving.docker import Engine
from deployctl.serving.docker_options import DockerOptions, container_spec

_PROBE_S = 30.0


def image(options: DockerOptions) -> str:
    """Returns which image would run; it is not pulled.

    Raises:
        EngineUnavailableError: no engine answers.
        ImageMissingError: the engine does not have it.
    """
    engine = Engine()
    try:
        found = engine.image(options.image, PullPolicy.NEVER)
    except ImageMissingError as error:
        raise ImageMissingError(options.image, "it was not pulled yet") from error
    finally:
        engine.close()
    advice = "" if "@" in options.image else "; a tag may come to mean another image, a digest does not"
    return f"{options.image} is {found.digest} on {engine.address}{advice}"


def mounts(options: DockerOptions) -> str:
    """Returns that a container that runs as the server would sees the repository as it is here.

    Raises:
        BasePathNotVisibleError: the engine's machine has another directory there, or none, or its user may not
            read it.
        StorageError: there is no repository here.
    """
    if not options.repository.is_dir():
        raise StorageError(f"there is no repository at {options.repository}", hint="deployctl init")
    engine = Engine()
    try:
        found = engine.image(options.image, PullPolicy.NEVER)
        spec = container_spec(options, found)
        # The configuration's directory is made by the first `up`.
        spec = spec.with_mounts((spec.mounts[0], *spec.mounts[2:]))
        status, output = engine.run_once(spec, ["/bin/ls", "-1A", options.models_path], timeout_s=_PROBE_S)
    finally:
        engine.close()
    here = sorted(os.listdir(options.repository))
    if status or sorted(output.split("\n")[:-1]) != here:
        seen = output.strip().splitlines()[-1] if status and output.strip() else f"{output.split()[:5]}"
        raise BasePathNotVisibleError(
            f"a container of {options.image} as user {spec.user} does not see {options.repository} as it is here: "
            f"{seen}",
            hint=f"ls -ld {options.repository}",
        )
    return f"{options.repository} is {options.models_path} in a container, read by user {spec.user}"
