"""The Docker engine: what is asked of it, and what it is told, by Docker's SDK, which is loaded for what needs it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from deployctl.domain.serving import PullPolicy
from deployctl.errors import EngineUnavailableError, ImageMissingError, SettingsError
from deployctl.serving.docker_address import engine_address
from deployctl.serving.docker_facts import (
    GRPC_PORT,
    REST_PORT,
    ContainerFacts,
    GoneError,
    ImageFacts,
    container_facts,
    image_facts,
)
from deployctl.serving.docker_labels import IMAGE_LABEL, ISOLATED_LABEL, ROLE_LABEL, SPEC_LABEL
from deployctl.serving.docker_options import ContainerSpec, named_values, repository_and_tag
from deployctl.serving.docker_reading import read

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import DeviceRequest, Mount

_CALL_TIMEOUT_S = 60
# Nothing is done for what is only read, and whoever asks may have better to do than to wait.
_READ_TIMEOUT_S = 10.0


class Engine:
    """The engine that the `docker` command would use: by DOCKER_HOST, by context, or the local one."""

    def __init__(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Finds out where the engine is, and connects when it is first asked something.

        Args:
            timeout_s: for calls that take a moment, not for pulls.

        Raises:
            EngineError: the settings of the `docker` command do not read.
        """
        self._address = engine_address(os.environ, Path.home())
        self._timeout_s = timeout_s
        self._client: DockerClient | None = None

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
        with self._calls() as client:
            return not any("rootless" in each for each in client.info().get("SecurityOptions") or ())

    def close(self) -> None:
        """Closes the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def image(self, name: str, pull: PullPolicy) -> ImageFacts:
        """Returns the image of that name, pulled as `pull` says.

        Raises:
            ImageMissingError: the engine does not have it, or it could not be pulled.
        """
        if pull is not PullPolicy.ALWAYS:
            try:
                return self._image(name)
            except GoneError as error:
                if pull is PullPolicy.NEVER:
                    raise ImageMissingError(name, 'the settings say pull = "never"') from error
        return self._pulled(name)

    def containers(self, labels: Mapping[str, str]) -> list[ContainerFacts]:
        """Returns all containers with `labels`, running or not, newest first."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        listed = self._quickly("/containers/json", {"all": "1", "filters": json.dumps(wanted)})
        if listed is None:
            with self._calls() as client:
                listed = client.api.containers(all=True, filters=wanted)
        found = []
        for entry in listed:
            with contextlib.suppress(GoneError):
                found.append(self.inspect(str(entry["Id"])))
        return found

    def inspect(self, container: str) -> ContainerFacts:
        """Returns what the engine says of a container now."""
        found = self._quickly(f"/containers/{container}/json")
        if found is None:
            with self._calls() as client:
                found = client.api.inspect_container(container)
        return container_facts(found)

    def create(self, spec: ContainerSpec, *, name: str, role: str, ports: tuple[int, int]) -> ContainerFacts:
        """Makes a container and does not start it; `ports` are those to publish, REST first, 0 for any."""
        rest, grpc = ports
        published = {f"{REST_PORT}/tcp": (spec.host, rest or None), f"{GRPC_PORT}/tcp": (spec.host, grpc or None)}
        with self._calls(reads_settings=True) as client:
            made = client.containers.create(
                spec.image_id,
                list(spec.command),
                name=name,
                labels={**spec.labels, **_own_labels(spec, role)},
                ports={} if spec.isolated else published,
                mounts=_mounts(spec),
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
        with self._calls() as client:
            client.api.start(container.id)

    def keep_running(self, container: ContainerFacts, policy: str) -> None:
        """Sets the restart policy: "no", "on-failure[:N]", "always" or "unless-stopped"."""
        name, _, count = policy.partition(":")
        rule = {"Name": name, **({"MaximumRetryCount": int(count)} if count else {})}
        with self._calls() as client:
            client.api.update_container(container.id, restart_policy=rule)

    def stop(self, container: ContainerFacts, *, timeout_s: float) -> None:
        """Asks the server to end, and kills it after `timeout_s` seconds."""
        with self._calls() as client:
            if container.status == "paused":
                client.api.unpause(container.id)
            client.api.stop(container.id, timeout=math.ceil(timeout_s))

    def restart(self, container: ContainerFacts, *, timeout_s: float) -> None:
        """Stops and starts the same container: its log goes on, its published ports may be others."""
        with self._calls() as client:
            if container.status == "paused":
                client.api.unpause(container.id)
            client.api.restart(container.id, timeout=math.ceil(timeout_s))

    def rename(self, container: ContainerFacts, name: str) -> None:
        """Gives the container another name."""
        with self._calls() as client:
            client.api.rename(container.id, name)

    def remove(self, container: ContainerFacts) -> None:
        """Removes a container with its log, killing it if it runs."""
        with contextlib.suppress(GoneError), self._calls() as client:
            client.api.remove_container(container.id, force=True, v=True)

    def make_isolated_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Makes a network that nothing leaves, but for the way between its containers and this machine."""
        apart = {"com.docker.network.bridge.enable_icc": "false"}
        with self._calls() as client:
            if not client.networks.list(names=[f"^{name}$"]):
                client.networks.create(name, driver="bridge", internal=True, labels=dict(labels), options=apart)

    def remove_networks(self, labels: Mapping[str, str]) -> None:
        """Removes the networks that were made with `labels`; no container may be in them."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        with self._calls() as client:
            for network in client.networks.list(filters=wanted):
                network.remove()

    def logs(
        self, container: ContainerFacts, *, lines: int | None, since: datetime | None, follow: bool
    ) -> Iterator[str]:
        """Yields log lines, oldest first; with `follow` until the container ends."""
        with self._calls() as client:
            chunks = client.api.logs(
                container.id,
                stream=True,
                follow=follow,
                tail="all" if lines is None else lines,
                since=since.timestamp() if since else None,
            )
            yield from _lines(chunks)

    def memory_bytes(self, container: ContainerFacts) -> int:
        """Returns what the container holds without file pages that can be dropped, as `docker stats` counts it."""
        with self._calls() as client:
            found = client.api.stats(container.id, stream=False, one_shot=True).get("memory_stats", {})
        details = found.get("stats", {})
        dropped = details.get("total_inactive_file", details.get("inactive_file", 0))
        return max(0, int(found.get("usage", 0)) - int(dropped))

    def image_name(self, image_id: str) -> ImageFacts | None:
        """Returns the image of that id, None where it was removed."""
        with contextlib.suppress(GoneError):
            return self._image(image_id)
        return None

    def deaths(self, container: ContainerFacts, *, since: datetime) -> tuple[str, ...]:
        """Returns what ended the container since then, in order: "oom", or "die" with the exit code: "die 137"."""
        now = datetime.now(UTC).timestamp()
        wanted = {"container": container.id, "event": ["oom", "die"]}
        with self._calls() as client:
            events = client.events(since=since.timestamp(), until=now, filters=wanted, decode=True)
            return tuple(_death(event) for event in events)

    def run_once(self, spec: ContainerSpec, command: list[str], *, timeout_s: float) -> tuple[int, str]:
        """Runs `command` instead of the server, and returns its exit code and output."""
        with self._calls(reads_settings=True) as client:
            made = client.containers.create(
                spec.image_id,
                command[1:],
                entrypoint=command[:1],
                labels={**spec.labels, ROLE_LABEL: "probe"},
                mounts=_mounts(spec),
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

    def _image(self, name: str) -> ImageFacts:
        """Returns what the engine has by that name or id, or raises GoneError."""
        found = self._quickly(f"/images/{name}/json")
        if found is None:
            with self._calls() as client:
                found = client.api.inspect_image(name)
        return image_facts(found)

    def _pulled(self, name: str) -> ImageFacts:
        from docker import errors as sdk_errors

        from deployctl.serving.docker_errors import words_of

        with self._calls() as client:
            try:
                return image_facts(client.images.pull(*repository_and_tag(name)).attrs)
            except sdk_errors.APIError as error:
                raise ImageMissingError(name, f"it cannot be pulled: {words_of(error)}") from error

    def _quickly(self, path: str, query: Mapping[str, str] = MappingProxyType({})) -> Any:
        """Returns what an engine on this machine says, None where the SDK has to be asked.

        Raises:
            EngineUnavailableError: it takes connections, and does not answer in time.
        """
        if not self._address.socket:
            return None
        try:
            return read(self._address.socket, path, query, timeout_s=_READ_TIMEOUT_S)
        except TimeoutError as error:
            raise EngineUnavailableError(self.address, f"no answer in {_READ_TIMEOUT_S:g} s") from error

    @contextlib.contextmanager
    def _calls(self, *, reads_settings: bool = False) -> Iterator[DockerClient]:
        """Yields the SDK's client; what it raises becomes this program's."""
        from deployctl.serving.docker_errors import translated

        if self._client is None:
            from deployctl.serving.docker_connection import connected

            with translated(self.address):
                self._client = connected(self._address, math.ceil(self._timeout_s))
        with translated(self.address, reads_settings=reads_settings):
            yield self._client


def _mounts(spec: ContainerSpec) -> list[Mount]:
    from docker.types import Mount

    return [Mount(path, source, type="bind", read_only=True) for source, path in spec.mounts]


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
        from docker.types import LogConfig

        found["log_config"] = LogConfig(type=spec.log_driver, config=named_values(spec.log_options))
    return found


def _own_labels(spec: ContainerSpec, role: str) -> dict[str, str]:
    labels = {SPEC_LABEL: spec.digest, ROLE_LABEL: role, IMAGE_LABEL: spec.image_name}
    return labels | ({ISOLATED_LABEL: "1"} if spec.isolated else {})


def _devices(text: str) -> DeviceRequest:
    from docker.types import DeviceRequest

    if text.startswith("device="):
        chosen = text.removeprefix("device=").split(",")
        return DeviceRequest(device_ids=chosen, capabilities=[["gpu"]])
    if text != "all" and not text.isdigit():
        raise SettingsError(f'docker.gpus = {text!r} is not "all", a number, or "device=0,1"')
    return DeviceRequest(count=-1 if text == "all" else int(text), capabilities=[["gpu"]])


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
