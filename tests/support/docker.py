"""The model server's image for tests, and what they need of a Docker engine.

Tests use whatever engine answers, and skip without one, unless DEPLOYCTL_REQUIRE names docker. `tests.support.engine`
starts one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deployctl.domain.names import TargetName
from deployctl.serving.docker_options import DockerOptions
from tests.support.engine import CHECKOUT, PID_FILE, answers, wait_for
from tests.support.model_server import ROOT
from tests.support.models import skip_or_fail
from tests.support.serving import Place
from tests.support.workspace import Workspace

if TYPE_CHECKING:
    from deployctl.serving.docker_runtime import DockerRuntime

_BUILD_S = 600.0
# All that the image is made of.
_INPUTS = (
    "deploy/model-server",
    "deployctl/__init__.py",
    "deployctl/errors.py",
    "deployctl/domain",
    "deployctl/modelserver",
    "deployctl/protos",
    "constraints.txt",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--serving-image", default="", help="Image for Docker tests; default: one built from deploy/.")


@pytest.fixture(scope="session")
def docker_engine() -> Any:
    """The client of an engine that answers."""
    # Asked by the command: the SDK leaves a socket open where nothing answers.
    if not answers():
        skip_or_fail("docker", "no Docker engine answers")
    import docker

    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="session")
def serving_image(docker_engine: Any, request: pytest.FixtureRequest) -> str:
    """The image that serves in tests."""
    chosen = str(request.config.getoption("--serving-image"))
    return chosen or build_image()


@pytest.fixture(scope="session")
def daemon_image(docker_engine: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The daemon's image, made from the checkout as it is now."""
    del docker_engine
    tag = f"deployctl/daemon:test-{CHECKOUT}"
    try:
        _build("daemon", tag, {"CONTEXT": str(tmp_path_factory.mktemp("context"))})
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        skip_or_fail("compose", "its wheels cannot be downloaded")
    # Asked for every time: the engine knows which steps it has taken already.
    _build("daemon", tag, {"SERVER": build_image()})
    return tag


@dataclass(frozen=True)
class DockerPlace(Place):
    """A target in a container; `options` are what it is made from."""

    options: DockerOptions

    def changed(self, **settings: Any) -> DockerRuntime:
        """Another runtime of the same target, with other settings, as after an edit of the settings file."""
        from deployctl.serving.docker_runtime import DockerRuntime

        return DockerRuntime(self.changed_options(**settings))

    def changed_options(self, **settings: Any) -> DockerOptions:
        """What the target is made from, with other settings."""
        return replace(self.options, **settings)


@pytest.fixture
def docker_place(tmp_path: Path, serving_image: str) -> Iterator[DockerPlace]:
    """A target on the engine; its containers end with the test."""
    from deployctl.serving.docker_runtime import DockerRuntime

    models = tmp_path / "models"
    models.mkdir()
    options = DockerOptions(
        target=TargetName("local"),
        state_dir=tmp_path / "state",
        repository=models,
        image=serving_image,
        rest_port=0,
        grpc_port=0,
        extra_args=("--max_num_load_retries=0",),
    )
    let_in(tmp_path)
    made: list[DockerRuntime] = []

    def make() -> DockerRuntime:
        made.append(DockerRuntime(options))
        return made[-1]

    yield DockerPlace(make(), models, make, options)
    with contextlib.suppress(PermissionError):
        make().down(timeout_s=2)
    for runtime in made:
        runtime.close()


@pytest.fixture
def docker_workspace(tmp_path: Path, serving_image: str) -> Iterator[Callable[..., Workspace]]:
    """Makes workspaces whose target `local` is a container; `docker` are lines of its table of that name."""
    made: list[Workspace] = []
    let_in(tmp_path)

    def make(
        *,
        gates: str = "[]",
        repository: str = "",
        docker: str = "",
        settings: str = "",
        ports: tuple[int, int] = (0, 0),
    ) -> Workspace:
        lines = f'runtime = "docker"\nimage = "{serving_image}"\ngates = {gates}\n'
        lines += f"rest_port = {ports[0]}\ngrpc_port = {ports[1]}\n"
        text = f"{repository}[targets.local]\n{lines}{settings}[targets.local.docker]\n{docker}"
        made.append(Workspace.make(tmp_path / f"work{len(made)}", targets=text))
        return made[-1]

    yield make
    for workspace in made:
        workspace.run("down", "local", "--timeout", "2s")


class StoppableEngine:
    """The engine's process, which tests may end and start again as it was started."""

    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file
        process = Path("/proc", pid_file.read_text().strip())
        self._command = [word.decode() for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
        self._directory = (process / "cwd").resolve()

    def stop(self) -> None:
        """Ends the engine, and with it every container."""
        process = Path("/proc", self._pid_file.read_text().strip())
        os.kill(int(process.name), signal.SIGTERM)
        wait_for(lambda: not process.exists(), f"the engine, process {process.name}, does not end")

    def start(self) -> None:
        """Starts the engine unless it runs; returns once it answers."""
        if answers():
            return
        with open(self._pid_file.with_name("log"), "ab") as log:
            # No child of ours: it outlives the test.
            subprocess.run(
                ["setsid", "--fork", *self._command],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                timeout=60,
            )
        wait_for(answers, "the engine does not answer again")


@pytest.fixture
def stoppable_engine(docker_engine: Any) -> Iterator[StoppableEngine]:
    """The engine, where it was started for tests: by `up`, or with DEPLOYCTL_ENGINE_PID naming its pid file."""
    del docker_engine
    pid_file = Path(os.environ.get("DEPLOYCTL_ENGINE_PID") or PID_FILE)
    if not pid_file.is_file():
        pytest.skip("the engine that answers was not started for tests, and serves others perhaps")
    engine = StoppableEngine(pid_file)
    yield engine
    engine.start()


class ImageMaker:
    """Makes images from one that serves, with other files or settings; they are gone after the block."""

    def __init__(self, engine: Any, base: str) -> None:
        self._engine = engine
        self._base = base
        self._made: list[str] = []

    def __enter__(self) -> ImageMaker:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            self._engine.images.remove(name, force=True)

    def make(
        self,
        *,
        files: Mapping[str, str] | None = None,
        directories: Mapping[str, Path] | None = None,
        changes: Sequence[str] = ('LABEL "another"="1"',),
    ) -> str:
        """Returns the name of a new image with these texts and directories below its root, changed as a Dockerfile."""
        container = self._engine.containers.create(self._base)
        try:
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for name, text in (files or {}).items():
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = len(text.encode()), 0o644
                    tar.addfile(entry, io.BytesIO(text.encode()))
                for name, directory in (directories or {}).items():
                    tar.add(directory, name)
            container.put_archive("/", archive.getvalue())
            tag = f"test-{secrets.token_hex(6)}"
            container.commit("deployctl/model-server", tag, changes=list(changes))
        finally:
            container.remove()
        self._made.append(f"deployctl/model-server:{tag}")
        return self._made[-1]


def let_in(directory: Path) -> None:
    """Lets the container's user, who is not root, pass through pytest's directories to `directory`."""
    for path in (directory, *directory.parents):
        if (
            path.owner() == directory.owner()
            and path != Path(tempfile.gettempdir())
            and not path.stat().st_mode & 0o001
        ):
            path.chmod(path.stat().st_mode | 0o011)


def image_tag() -> str:
    """The tag of the image that is built from the checkout as it is now."""
    digest = hashlib.sha256()
    for name in _INPUTS:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return f"deployctl/model-server:test-{digest.hexdigest()[:12]}"


def build_image() -> str:
    """Builds the image unless the engine has it; pytest's workers wait for the one that builds it."""
    tag, place = image_tag(), ROOT / "build"
    place.mkdir(exist_ok=True)
    with (place / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, timeout=60).returncode:
            _build("model-server", tag, {})
    return tag


def _build(name: str, tag: str, environment: Mapping[str, str]) -> None:
    subprocess.run(
        [ROOT / "deploy" / name / "build.sh", tag],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=_BUILD_S,
    )
