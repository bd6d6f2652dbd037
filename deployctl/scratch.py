"""Makes the scratch server of a target's kind."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.config.settings import RuntimeName, TargetSettings
from deployctl.domain.names import TargetName

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.gates.scratch import Launch, ScratchServer
    from deployctl.serving.interface import ServingRuntime

_NAME = TargetName("scratch")


def scratch_server(deployment: Deployment, target: TargetSettings) -> ScratchServer:
    """Returns a scratch server as `target` runs one: the same image, or the embedded server with the same flags.

    A container has the target's memory limit and no network: what a version does reaches nobody.

    For a target that someone else runs, whose kind cannot be had, the embedded server stands in.
    """
    from deployctl.gates.scratch import ScratchServer

    directory = deployment.settings.state_path / "scratch"
    if target.runtime is RuntimeName.DOCKER:
        return ScratchServer(directory, _container(deployment, target), deployment.context.clock, copy_version)
    return ScratchServer(directory, _process(target), deployment.context.clock)


def _process(target: TargetSettings) -> Launch:
    from deployctl.serving.process import ProcessOptions, ProcessRuntime

    extra_args = target.server_args if target.runtime is RuntimeName.PROCESS else ()

    def launch(state_dir: Path, models: Path) -> ServingRuntime:
        del models
        return ProcessRuntime(
            ProcessOptions(
                target=_NAME,
                state_dir=state_dir,
                rest_port=0,
                grpc_port=0,
                max_num_load_retries=0,
                drain_timeout_s=0.5,
                extra_args=extra_args,
            )
        )

    return launch


def _container(deployment: Deployment, target: TargetSettings) -> Launch:
    from deployctl.bootstrap import docker_options
    from deployctl.serving.docker_runtime import DockerRuntime

    def launch(state_dir: Path, models: Path) -> ServingRuntime:
        options = docker_options(_NAME, deployment.settings, target)
        return DockerRuntime(
            replace(
                options,
                state_dir=state_dir,
                repository=models,
                rest_port=0,
                grpc_port=0,
                isolated=True,
                kept=False,
                restart="no",
                extra_args=(*options.extra_args, "--max_num_load_retries=0"),
            ),
            deployment.context.observer.warn,
        )

    return launch


def beside_target(deployment: Deployment, target: TargetSettings) -> Launch:
    """Returns what makes a container as the target's from its directory and the models: reached on ports of its own."""
    from deployctl.bootstrap import docker_options
    from deployctl.serving.docker_runtime import DockerRuntime

    def launch(state_dir: Path, models: Path) -> ServingRuntime:
        options = docker_options(_NAME, deployment.settings, target)
        own = replace(
            options, state_dir=state_dir, repository=models, rest_port=0, grpc_port=0, kept=False, restart="no"
        )
        return DockerRuntime(own, deployment.context.observer.warn)

    return launch


def image_digest(deployment: Deployment, target: TargetSettings) -> str:
    """Returns what the image of `target` is by its bytes, or its name where the engine cannot tell now."""
    from deployctl.bootstrap import docker_options
    from deployctl.errors import DeployctlError
    from deployctl.serving.docker_runtime import DockerRuntime

    runtime = DockerRuntime(docker_options(_NAME, deployment.settings, target), deployment.context.observer.warn)
    try:
        return runtime.wanted_image().digest
    except DeployctlError:
        return target.image  # the gate meets the same problem, and tells it
    finally:
        runtime.close()


def copy_version(version: Path, destination: Path) -> None:
    """Puts a version where a container can see it: by hard links, or by copies where these cannot be made."""

    def place(source: str, target: str) -> None:
        with suppress(OSError):
            os.link(source, target)
            return
        shutil.copyfile(source, target)

    shutil.copytree(version, destination, copy_function=place)
