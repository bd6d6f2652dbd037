"""The Docker engine: the one module that uses Docker's SDK; its errors become this program's here."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker import errors as sdk_errors
from docker.types import DeviceRequest, LogConfig, Mount

from deployctl.domain.serving import PullPolicy
from deployctl.errors import (
    BasePathNotVisibleError,
    DeployctlError,
    EngineError,
    EngineUnavailableError,
    ImageMissingError,
    PortTakenError,
    SettingsError,
)
from deployctl.serving.docker_address import engine_address
from deployctl.serving.docker_connection import connected
from deployctl.serving.docker_options import (
    GRPC_PORT,
    IMAGE_LABEL,
    ISOLATED_LABEL,
    OURS_LABEL,
    REST_PORT,
    ROLE_LABEL,
    SPEC_LABEL,
    ContainerFacts,
    ContainerSpec,
    ImageFacts,
    address_of,
    named_values,
    repository_and_tag,
)

_CALL_TIMEOUT_S = 60
_PORT_TAKEN = re.compile(r"(?:Bind for |listen tcp[46]? )(\S+?):(\d+)(?: failed: port is already allocated|: bind:)")
_NO_SOURCE = re.compile(r"bind source path does not exist: (\S+)")
_MICRO = re.compile(r"(\.\d{1,6})\d*")


class Engine:
    """The engine that the `docker` command would use: by DOCKER_HOST, by context, or the local one."""

    def __init__(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Connects; `timeout_s` is for calls that take a moment, not for pulls.

        Raises:
            EngineUnavailableError: nothing answers.
        """
        self._address = engine_address(os.environ, Path.home())
        with _translated(self.address):
            self._client = connected(self._address, math.ceil(timeout_s))
        self._containers: Any = self._client.containers

    @property
    def address(self) -> str:
        """Where the engine is, for messages."""
        return self._address.url

    @property
    def host(self) -> str:
        """The machine that published ports are reached at: "" for this one."""
        return self._address.host

    @property
    def reaches_containers(self) -> bool:
        """Whether this machine reaches containers at their own addresses: by an engine on it that has root's rights."""
        if sys.platform != "linux" or self.host:
            return False
        with self._calls():
            return not any("rootless" in each for each in self._client.info().get("SecurityOptions") or ())

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def image(self, name: str, pull: PullPolicy) -> ImageFacts:
        """Returns the image of that name, pulled as `pull` says.

        Raises:
            ImageMissingError: the engine does not have it, or it could not be pulled.
        """
        with self._calls():
            if pull is not PullPolicy.ALWAYS:
                try:
                    return _image_facts(self._client.images.get(name))
                except sdk_errors.ImageNotFound as error:
                    if pull is PullPolicy.NEVER:
                        raise ImageMissingError(name, 'the settings say pull = "never"') from error
            return self._pulled(name)

    def containers(self, labels: Mapping[str, str]) -> list[ContainerFacts]:
        """Returns all containers with `labels`, running or not, newest first."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        with self._calls():
            listed = self._client.api.containers(all=True, filters=wanted)
        found = []
        for entry in listed:
            with contextlib.suppress(_GoneError):
                found.append(self.inspect(str(entry["Id"])))
        return found

    def inspect(self, container: str) -> ContainerFacts:
        """Returns what the engine says of a container now."""
        with self._calls():
            return _container_facts(self._client.api.inspect_container(container))

    def create(self, spec: ContainerSpec, *, name: str, role: str, ports: tuple[int, int]) -> ContainerFacts:
        """Makes a container and does not start it; `ports` are those to publish, REST first, 0 for any."""
        rest, grpc = ports
        published = {f"{REST_PORT}/tcp": (spec.host, rest or None), f"{GRPC_PORT}/tcp": (spec.host, grpc or None)}
        with self._calls(spec):
            made = self._containers.create(
                spec.image_id,
                list(spec.command),
                name=name,
                labels={**spec.labels, **_own_labels(spec, role)},
                ports={} if spec.isolated else published,
                mounts=[Mount(path, source, type="bind", read_only=True) for source, path in spec.mounts],
                environment=named_values(spec.environment),
                init=True,
                read_only=True,
                tmpfs={"/tmp": f"size={spec.tmp_size}"},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                user=spec.user,
                **_limits(spec),
            )
            return self.inspect(made.id)

    def start(self, container: ContainerFacts) -> None:
        """Starts a container that was made or has ended.

        Raises:
            PortTakenError: a port that it publishes is in use on the engine's machine.
        """
        with self._calls():
            self._client.api.start(container.id)

    def keep_running(self, container: ContainerFacts, policy: str) -> None:
        """Sets the restart policy: "no", "on-failure[:N]", "always" or "unless-stopped"."""
        name, _, count = policy.partition(":")
        rule = {"Name": name, **({"MaximumRetryCount": int(count)} if count else {})}
        with self._calls():
            self._client.api.update_container(container.id, restart_policy=rule)

    def stop(self, container: ContainerFacts, *, timeout_s: float) -> None:
        """Asks the server to end, and kills it after `timeout_s` seconds."""
        with self._calls():
            if container.status == "paused":
                self._client.api.unpause(container.id)
            self._client.api.stop(container.id, timeout=math.ceil(timeout_s))

    def restart(self, container: ContainerFacts, *, timeout_s: float) -> None:
        """Stops and starts the same container: its log goes on, its published ports may be others."""
        with self._calls():
            if container.status == "paused":
                self._client.api.unpause(container.id)
            self._client.api.restart(container.id, timeout=math.ceil(timeout_s))

    def rename(self, container: ContainerFacts, name: str) -> None:
        """Gives the container another name."""
        with self._calls():
            self._client.api.rename(container.id, name)

    def remove(self, container: ContainerFacts) -> None:
        """Removes a container with its log, killing it if it runs."""
        with self._calls(), contextlib.suppress(sdk_errors.NotFound):
            self._client.api.remove_container(container.id, force=True, v=True)

    def make_isolated_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Makes a network that nothing leaves, but for the way between its containers and this machine."""
        apart = {"com.docker.network.bridge.enable_icc": "false"}
        with self._calls():
            if not self._client.networks.list(names=[f"^{name}$"]):
                self._client.networks.create(name, driver="bridge", internal=True, labels=dict(labels), options=apart)

    def remove_networks(self, labels: Mapping[str, str]) -> None:
        """Removes the networks that were made with `labels`; no container may be in them."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        with self._calls():
            for network in self._client.networks.list(filters=wanted):
                network.remove()

    def logs(
        self, container: ContainerFacts, *, lines: int | None, since: datetime | None, follow: bool
    ) -> Iterator[str]:
        """Yields log lines, oldest first; with `follow` until the container ends."""
        with self._calls():
            chunks = self._client.api.logs(
                container.id,
                stream=True,
                follow=follow,
                tail="all" if lines is None else lines,
                since=since.timestamp() if since else None,
            )
            yield from _lines(chunks)

    def memory_bytes(self, container: ContainerFacts) -> int:
        """Returns what the container holds without file pages that can be dropped, as `docker stats` counts it."""
        with self._calls():
            found = self._client.api.stats(container.id, stream=False, one_shot=True).get("memory_stats", {})
        details = found.get("stats", {})
        dropped = details.get("total_inactive_file", details.get("inactive_file", 0))
        return max(0, int(found.get("usage", 0)) - int(dropped))

    def image_name(self, image_id: str) -> ImageFacts | None:
        """Returns the image of that id, None where it was removed."""
        with self._calls(), contextlib.suppress(sdk_errors.ImageNotFound):
            return _image_facts(self._client.images.get(image_id))
        return None

    def deaths(self, container: ContainerFacts, *, since: datetime) -> tuple[str, ...]:
        """Returns what ended the container since then, in order: "oom", or "die" with the exit code: "die 137"."""
        now = datetime.now(UTC).timestamp()
        wanted = {"container": container.id, "event": ["oom", "die"]}
        with self._calls():
            events = self._client.events(since=since.timestamp(), until=now, filters=wanted, decode=True)
            return tuple(_death(event) for event in events)

    def run_once(self, spec: ContainerSpec, command: list[str], *, timeout_s: float) -> tuple[int, str]:
        """Runs `command` instead of the server, and returns its exit code and output."""
        with self._calls(spec):
            made = self._containers.create(
                spec.image_id,
                command[1:],
                entrypoint=command[:1],
                labels={**spec.labels, ROLE_LABEL: "probe"},
                mounts=[Mount(path, source, type="bind", read_only=True) for source, path in spec.mounts],
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                network_mode="none",
                user=spec.user,
            )
            try:
                made.start()
                status = made.wait(timeout=timeout_s)["StatusCode"]
                return int(status), made.logs().decode(errors="replace")
            finally:
                made.remove(force=True, v=True)

    def _pulled(self, name: str) -> ImageFacts:
        try:
            return _image_facts(self._client.images.pull(*repository_and_tag(name)))
        except sdk_errors.APIError as error:
            raise ImageMissingError(name, f"it cannot be pulled: {_words(error)}") from error

    @contextlib.contextmanager
    def _calls(self, spec: ContainerSpec | None = None) -> Iterator[None]:
        with _translated(self.address, spec):
            yield


class _GoneError(EngineError):
    """The container was removed meanwhile."""


@contextlib.contextmanager
def _translated(address: str, spec: ContainerSpec | None = None) -> Iterator[None]:
    try:
        yield
    except sdk_errors.NotFound as error:
        raise _GoneError(f"the Docker engine at {address} does not know it: {_words(error)}") from error
    except sdk_errors.APIError as error:
        raise _refusal(address, error) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnavailableError(address, _innermost(error)) from error
    except sdk_errors.DockerException as error:
        if spec is None:
            raise EngineUnavailableError(address, _innermost(error)) from error
        # The SDK reads sizes and rules itself, e.g. memory = "4 GB".
        raise SettingsError(f"a Docker setting is not understood: {error}") from error


def _refusal(address: str, error: Any) -> DeployctlError:
    words = _words(error)
    if taken := _PORT_TAKEN.search(words):
        return PortTakenError(
            f"port {taken[2]} of {taken[1]} is in use on the engine's machine by another program or container",
            hint=f"docker ps --filter publish={taken[2]}",
        )
    if missing := _NO_SOURCE.search(words):
        return BasePathNotVisibleError(
            f"the Docker engine at {address} has no directory {missing[1]} to mount", hint="deployctl doctor"
        )
    return EngineError(f"the Docker engine at {address} refused: {words}")


def _words(error: Any) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _limits(spec: ContainerSpec) -> dict[str, Any]:
    """Returns the arguments that are left out where nothing is asked for."""
    found: dict[str, Any] = {}
    if spec.memory:
        found |= {"mem_limit": spec.memory, "memswap_limit": spec.memory}
    if spec.cpus:
        try:
            found["nano_cpus"] = round(float(spec.cpus) * 1e9)
        except ValueError as error:
            raise SettingsError(f"docker.cpus = {spec.cpus!r} is not a number of processors") from error
    if spec.gpus:
        found["device_requests"] = [_devices(spec.gpus)]
    if spec.network:
        found["network"] = spec.network
    if spec.log_driver:
        found["log_config"] = LogConfig(type=spec.log_driver, config=named_values(spec.log_options))
    return found


def _own_labels(spec: ContainerSpec, role: str) -> dict[str, str]:
    labels = {SPEC_LABEL: spec.digest, ROLE_LABEL: role, IMAGE_LABEL: spec.image_name}
    return labels | ({ISOLATED_LABEL: "1"} if spec.isolated else {})


def _devices(text: str) -> DeviceRequest:
    if text.startswith("device="):
        chosen = text.removeprefix("device=").split(",")
        return DeviceRequest(device_ids=chosen, capabilities=[["gpu"]])
    if text != "all" and not text.isdigit():
        raise SettingsError(f'docker.gpus = {text!r} is not "all", a number, or "device=0,1"')
    return DeviceRequest(count=-1 if text == "all" else int(text), capabilities=[["gpu"]])


def _image_facts(image: Any) -> ImageFacts:
    configuration = image.attrs.get("Config") or {}
    digests = image.attrs.get("RepoDigests") or [image.id]
    labels = configuration.get("Labels") or {}
    return ImageFacts(str(image.id), str(digests[0]), str(configuration.get("User") or ""), OURS_LABEL in labels)


def _container_facts(found: Any) -> ContainerFacts:
    state = found["State"]
    rest, grpc = (address_of(found, port) for port in (REST_PORT, GRPC_PORT))
    return ContainerFacts(
        id=str(found["Id"]),
        name=str(found["Name"]).lstrip("/"),
        status=str(state["Status"]),
        exit_code=int(state["ExitCode"]),
        oom_killed=bool(state["OOMKilled"]),
        health=str((state.get("Health") or {}).get("Status", "")),
        started_at=_MICRO.sub(r"\1", str(state["StartedAt"])),
        restarts=int(found.get("RestartCount", 0)),
        image_id=str(found["Image"]),
        labels=found["Config"].get("Labels") or {},
        rest_address=rest,
        grpc_address=grpc,
        memory_limit=int(found["HostConfig"].get("Memory") or 0),
        pid=int(state.get("Pid") or 0),
    )


def _death(event: Any) -> str:
    code = event.get("Actor", {}).get("Attributes", {}).get("exitCode")
    return str(event["Action"]) if code is None else f"{event['Action']} {code}"


def _lines(chunks: Any) -> Iterator[str]:
    left = b""
    for chunk in chunks:
        *whole, left = (left + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if left:
        yield left.decode(errors="replace")
