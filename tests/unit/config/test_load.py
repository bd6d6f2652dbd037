from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployctl.config.load import Loaded, find_file, load, value_of
from deployctl.config.settings import RuntimeName
from deployctl.config.template import TEMPLATE
from deployctl.domain.revision import Routing
from deployctl.errors import SettingsError


def written(directory: Path, text: str = "[targets.local]\n") -> Path:
    file = directory / "deployctl.toml"
    file.write_text(text)
    return file


def loaded(directory: Path, *flags: str, **environment: str) -> Loaded:
    return load(flags=flags, environment=environment, directory=directory)


def test_a_target_has_every_default(tmp_path: Path) -> None:
    written(tmp_path)

    settings = loaded(tmp_path).settings

    target = settings.targets["local"]  # type: ignore[index]
    assert (target.runtime, target.routing) == (RuntimeName.PROCESS, Routing.LABEL)
    assert (target.rest_port, target.grpc_port, target.warm_standby) == (8501, 8500, 1)
    assert settings.model_base_path == tmp_path / "models"
    assert settings.state_path == tmp_path / ".deployctl"


def test_the_template_is_what_the_defaults_are(tmp_path: Path) -> None:
    written(tmp_path, TEMPLATE)
    template = loaded(tmp_path).settings
    written(tmp_path)

    assert template == loaded(tmp_path).settings


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    key, variable = "targets.local.rest_port", "DEPLOYCTL_TARGETS_LOCAL_REST_PORT"
    written(tmp_path)
    default = loaded(tmp_path)
    file = written(tmp_path, "[targets.local]\nrest_port = 1\n")

    of_file = loaded(tmp_path)
    of_environment = loaded(tmp_path, **{variable: "2"})
    of_flag = loaded(tmp_path, f"{key}=3", **{variable: "2"})

    assert [value_of(each.settings, key) for each in (default, of_file, of_environment, of_flag)] == [8501, 1, 2, 3]
    assert [each.origins[key] for each in (default, of_file, of_environment, of_flag)] == [
        "default",
        f"file {file}",
        f"environment {variable}",
        "flag --set",
    ]


def test_the_last_of_two_flags_counts(tmp_path: Path) -> None:
    written(tmp_path)

    assert loaded(tmp_path, "state_dir=a", "state_dir=b").settings.state_dir == "b"


def test_every_key_has_an_origin_and_a_value(tmp_path: Path) -> None:
    written(tmp_path, TEMPLATE)

    found = loaded(tmp_path)

    assert "lineage.busy_timeout_s" in found.origins
    assert "targets.local.server_args" in found.origins
    for key in found.origins:
        value_of(found.settings, key)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense = 1",
        "[nonsense]",
        "[nonsense]\nx = 1",
        "[repository]\nx = 1",
        "repository = 3",
        "targets = []",
        "[targets]\nlocal = 5",
        "[targets.local]\nx = 1",
        "[targets.local.deep]",
        "[targets.local.deep]\nrest_port = 1",
        '[targets."a.b"]\nrest_port = 1',
        "root = '/'",
    ],
)
def test_an_unknown_key_of_the_file_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)

    with pytest.raises(SettingsError, match="there is no setting") as raised:
        loaded(tmp_path)

    assert str(file) in str(raised.value)


def test_an_unknown_variable_is_an_error_that_names_it(tmp_path: Path) -> None:
    written(tmp_path)

    with pytest.raises(SettingsError, match="DEPLOYCTL_LINEAGE_URI in the environment is no setting"):
        loaded(tmp_path, DEPLOYCTL_LINEAGE_URI="x")
    with pytest.raises(SettingsError, match="DEPLOYCTL_TARGETS_OTHER_HOST"):
        loaded(tmp_path, DEPLOYCTL_TARGETS_OTHER_HOST="x")


def test_variables_that_are_no_settings_of_their_own_are_left_alone(tmp_path: Path) -> None:
    written(tmp_path)

    loaded(tmp_path, DEPLOYCTL_TARGET="local", DEPLOYCTL_REQUIRE="docker", _DEPLOYCTL_COMPLETE="source_bash", HOME="/x")


@pytest.mark.parametrize("flag", ["x=1", "targets.local.x=1", "targets.local=1", "repository=1", "", "=1", "state_dir"])
def test_an_unknown_or_malformed_flag_is_an_error(tmp_path: Path, flag: str) -> None:
    written(tmp_path)

    with pytest.raises(SettingsError):
        loaded(tmp_path, flag)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("rest_port", "'8501'", "is not a whole number"),
        ("rest_port", "true", "is not a whole number"),
        ("rest_port", "70000", "is not a port"),
        ("rest_port", "-1", "is not a port"),
        ("warm_standby", "-1", "is negative"),
        ("warm_standby", "1.5", "is not a whole number"),
        ("host", "7", "is not a text"),
        ("runtime", "'systemd'", "is not one of 'process'"),
        ("routing", "'random'", "is not one of 'label', 'latest'"),
        ("server_args", "'--x'", "is not a list of texts"),
        ("server_args", "[1]", "is not a list of texts"),
        ("lock_timeout_s", "'soon'", "is not a duration"),
        ("lock_timeout_s", "-1", "is negative"),
        ("lock_timeout_s", "nan", "is not a finite number"),
        ("lock_timeout_s", "inf", "is not a finite number"),
        ("lock_timeout_s", "true", "is not a duration"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_with_its_key_and_value(
    tmp_path: Path, key: str, text: str, words: str
) -> None:
    written(tmp_path, f"[targets.local]\n{key} = {text}\n")

    with pytest.raises(SettingsError, match=words) as raised:
        loaded(tmp_path)

    assert f"targets.local.{key}" in str(raised.value)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("'90s'", 90.0), ("'5m'", 300.0), ("0.5", 0.5)])
def test_a_duration_is_a_number_of_seconds_or_words(tmp_path: Path, text: str, seconds: float) -> None:
    written(tmp_path, f"[targets.local]\nload_timeout_s = {text}\n")

    assert value_of(loaded(tmp_path).settings, "targets.local.load_timeout_s") == seconds


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("rest_port", "0", 0),
        ("server_args", "--a=1 --b=2", ("--a=1", "--b=2")),
        ("server_args", "", ()),
        ("stop_timeout_s", "1m", 60.0),
        ("routing", "latest", Routing.LATEST),
        ("host", "::1", "::1"),
    ],
)
def test_flags_and_variables_spell_every_kind_of_value(tmp_path: Path, key: str, text: str, value: object) -> None:
    written(tmp_path)

    by_flag = loaded(tmp_path, f"targets.local.{key}={text}")
    by_variable = loaded(tmp_path, **{f"DEPLOYCTL_TARGETS_LOCAL_{key.upper()}": text})

    for found in (by_flag, by_variable):
        assert value_of(found.settings, f"targets.local.{key}") == value


def test_a_flag_can_add_a_target(tmp_path: Path) -> None:
    written(tmp_path)

    settings = loaded(tmp_path, "targets.scratch.rest_port=0").settings

    assert list(settings.targets) == ["local", "scratch"]


def test_a_target_needs_a_name_that_can_be_a_directory(tmp_path: Path) -> None:
    written(tmp_path, "[targets.'a b']\nrest_port = 0\n")

    with pytest.raises(SettingsError, match="'a b' cannot name a target"):
        loaded(tmp_path)


def test_the_default_target_must_be_one(tmp_path: Path) -> None:
    written(tmp_path, "default_target = 'x'\n[targets.local]\n")

    with pytest.raises(SettingsError, match="default_target 'x' is not among the targets"):
        loaded(tmp_path)


def test_bad_toml_is_told_with_its_place(tmp_path: Path) -> None:
    file = written(tmp_path, "[targets.local\n")

    with pytest.raises(SettingsError, match=r"is not TOML: .*line 1") as raised:
        loaded(tmp_path)

    assert str(file) in str(raised.value)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deployctl.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(SettingsError, match="is not TOML"):
        loaded(tmp_path)


def test_without_any_file_the_hint_is_init(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(tmp_path, HOME=str(tmp_path))

    assert raised.value.hint == "deployctl init"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    written(tmp_path)

    with pytest.raises(SettingsError, match=r"there is no settings file .*other\.toml"):
        find_file(tmp_path / "other.toml", {}, tmp_path)
    with pytest.raises(SettingsError, match=r"there is no settings file .*other\.toml"):
        find_file(None, {"DEPLOYCTL_CONFIG": str(tmp_path / "other.toml")}, tmp_path)
    with pytest.raises(SettingsError):
        find_file(tmp_path, {}, tmp_path)


def test_the_named_file_comes_before_the_directorys_before_the_users(tmp_path: Path) -> None:
    home, here, named = (tmp_path / name for name in ("home/.config/deployctl", "here", "named"))
    for directory in (home, here, named):
        directory.mkdir(parents=True)
    environment = {"HOME": str(tmp_path / "home")}
    of_user = written(home)
    assert find_file(None, environment, here) == of_user
    of_directory = written(here)
    assert find_file(None, environment, here) == of_directory
    of_variable = written(named)
    assert find_file(None, environment | {"DEPLOYCTL_CONFIG": str(of_variable)}, here) == of_variable
    assert find_file(of_user, environment | {"DEPLOYCTL_CONFIG": str(of_variable)}, here) == of_user


def test_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    written(tmp_path, "state_dir = '/var/lib/deployctl'\n[repository]\nmodel_base_path = 'm'\n[targets.local]\n")

    settings = load(file=tmp_path / "deployctl.toml", environment={}, directory=Path(os.sep)).settings

    assert settings.model_base_path == tmp_path / "m"
    assert settings.state_path == Path("/var/lib/deployctl")


def test_a_port_is_listened_on_once(tmp_path: Path) -> None:
    written(tmp_path, "[targets.a]\nrest_port = 8500\n")

    with pytest.raises(SettingsError, match=r"targets\.a\.rest_port and targets\.a\.grpc_port are both 8500") as raised:
        loaded(tmp_path)

    assert raised.value.hint is not None
    assert value_of(loaded(tmp_path, raised.value.hint.split()[2]).settings, "targets.a.grpc_port") == 0


def test_servers_of_two_targets_may_have_the_same_ports(tmp_path: Path) -> None:
    written(tmp_path, "[targets.blue]\nruntime = 'docker'\n[targets.green]\nruntime = 'docker'\n")

    assert list(loaded(tmp_path).settings.targets) == ["blue", "green"]
