"""Deployments for scratch servers, and what is left of those servers."""

from __future__ import annotations

from pathlib import Path

from deployctl.bootstrap import Deployment
from deployctl.config.load import load
from deployctl.domain.clock import Observer
from deployctl.serving import child


def deployment(root: Path, settings: str = "") -> Deployment:
    """Returns a deployment in `root` with one target `local`; `settings` are more lines of that target."""
    (root / "deployctl.toml").write_text(f"[targets.local]\nrest_port = 0\ngrpc_port = 0\n{settings}")
    return Deployment(load(environment={}, directory=root).settings, Observer())


def leftovers(root: Path) -> list[Path]:
    """Returns the scratch servers below `root` that run or have a directory."""
    scratch = root.resolve() / ".deployctl" / "scratch"
    left = [path for path in scratch.iterdir() if path.name != "logs" and path.suffix != ".lock"]
    for path in left:
        assert list(child.find(f"--model_config_file={path / 'scratch' / 'models.config'}"))
    return left
