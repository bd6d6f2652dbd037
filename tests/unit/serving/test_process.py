"""What a server gets of its starter."""

from __future__ import annotations

import os
from pathlib import Path

import deployctl
from deployctl.serving.process import server_environment

PACKAGE_ROOT = str(Path(deployctl.__file__).parent.parent)


def test_secrets_and_the_settings_of_other_programs_are_left_behind() -> None:
    starter = {
        "PATH": "/bin",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "AWS_SECRET_ACCESS_KEY": "s",
        "DEPLOYCTL_TOKEN": "s",
        "CI": "1",
    }

    kept = server_environment(starter)

    assert kept.keys() == {"PATH", "TF_CPP_MIN_LOG_LEVEL", "PYTHONPATH", "PYTHONUNBUFFERED"}


def test_the_server_finds_this_program_from_another_directory() -> None:
    assert PACKAGE_ROOT in server_environment({})["PYTHONPATH"].split(os.pathsep)


def test_relative_search_paths_stay_what_they_were() -> None:
    search = server_environment({"PYTHONPATH": f"lib{os.pathsep}{os.pathsep}/opt/lib"})["PYTHONPATH"].split(os.pathsep)

    assert search == [PACKAGE_ROOT, os.path.abspath("lib"), "/opt/lib"]
