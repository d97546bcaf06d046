"""Settings from environment variables: the meaning of values, and the errors for wrong values and names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.variables import variables


@pytest.fixture(autouse=True)
def _of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test has its own working folder, with a model, and its own user home. No setting is set."""
    for name in [name for name in os.environ if name.startswith("CAPSFUSION_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "models" / "a").mkdir(parents=True)


@pytest.mark.parametrize("name", ["home", "scratch", "staging", "laion2b", "laion_coco", "model"])
@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("models/a", "models/a"),
        ("./x", "x"),
        ("~/x", "me/x"),
        ("~", "me"),
        ("../x", "../x"),
        (" models/a\n", "models/a"),
    ],
)
def test_a_path_means_the_same_in_every_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, given: str, means: str
) -> None:
    monkeypatch.setenv(f"CAPSFUSION_{name.upper()}", given)
    assert str(getattr(load_settings(), name)) == f"{tmp_path}/{means}"
    monkeypatch.delenv(f"CAPSFUSION_{name.upper()}")
    assert str(getattr(load_settings(**{name: given.strip()}), name)) == f"{tmp_path}/{means}"


@pytest.mark.parametrize(
    ("name", "given", "means"),
    [
        ("staging", "s3://bucket/prefix", "s3://bucket/prefix"),
        ("staging", "S3://bucket/Prefix", "s3://bucket/Prefix"),
        ("staging", "file:///a/b", "/a/b"),
        ("laion2b", "none", "none"),
        ("laion2b", "hf://datasets/a/b", "hf://datasets/a/b"),
        ("laion_coco", "https://host/list.txt?a=~", "https://host/list.txt?a=~"),
        ("model", "owner/name@main", "owner/name@main"),
    ],
)
def test_what_is_no_path_stays(monkeypatch: pytest.MonkeyPatch, name: str, given: str, means: str) -> None:
    monkeypatch.setenv(f"CAPSFUSION_{name.upper()}", given)
    assert getattr(load_settings(), name) == means


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "NPROC_PER_NODE",
            "0",
            "CAPSFUSION_NPROC_PER_NODE is '0': expected 'auto' or a number greater",
        ),
        ("NPROC_PER_NODE", "-1", "CAPSFUSION_NPROC_PER_NODE is '-1': expected 'auto' or a number greater"),
        ("BATCH_SIZE", "0", "CAPSFUSION_BATCH_SIZE is '0': expected 'auto' or a number greater"),
        ("STALL_MINUTES", "inf", "CAPSFUSION_STALL_MINUTES is 'inf': expected a finite number"),
        ("PUNSAFE_MAX", "nan", "CAPSFUSION_PUNSAFE_MAX is 'nan': expected a finite number"),
        ("RULES__REPETITION_MAX", "nan", "CAPSFUSION_RULES__REPETITION_MAX is 'nan': expected a finite number"),
        ("KEEP_UNITS_DAYS", "1e300", "CAPSFUSION_KEEP_UNITS_DAYS is '1e300': expected a number less than"),
        ("RULES", "{", "CAPSFUSION_RULES is not JSON"),
        ("GATE__XYZ", "1", "CAPSFUSION_GATE__XYZ is not a setting: see docs/settings.md"),
        (
            "RULES__MIN_WORD",
            "1",
            "CAPSFUSION_RULES__MIN_WORD is not a setting: did you mean CAPSFUSION_RULES__MIN_WORDS?",
        ),
        (
            "LAION2B_INCLUDE",
            '["a"',
            """CAPSFUSION_LAION2B_INCLUDE is '["a"': it starts with [ and is not a JSON list""",
        ),
        ("STAGING", "s3:/b/p", "CAPSFUSION_STAGING is 's3:/b/p': there is no // after s3:; write s3://b/p"),
        ("LAKE_TABLE", "fused", "CAPSFUSION_LAKE_TABLE is 'fused': expected namespace.table"),
        ("HOME", " ", "CAPSFUSION_HOME is '': it is empty; give a path"),
        ("WAREHOUSE_URL", " ", "CAPSFUSION_WAREHOUSE_URL is not valid: it is empty; give a value"),
        ("HOME", "~nobody-of-this-name/x", "this system has no such home folder"),
        ("MODEL", "~nobody-of-this-name/x", "this system has no such home folder"),
        ("NUM_BEAM", "3", "CAPSFUSION_NUM_BEAM is not a setting: did you mean CAPSFUSION_NUM_BEAMS?"),
        ("RULES_MIN_WORDS", "3", "did you mean CAPSFUSION_RULES__MIN_WORDS?"),
        ("AWS_CONNECTION_ID", "x", "did you mean CAPSFUSION_AWS_CONN_ID?"),
        ("LAION_2B", "x", "did you mean CAPSFUSION_LAION2B?"),
    ],
)
def test_a_value_or_a_name_that_is_wrong_is_one_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"CAPSFUSION_{variable}", value)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_errors_are_told_at_once_and_those_of_options_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPSFUSION_DTYPE", "half")
    monkeypatch.setenv("CAPSFUSION_MODELS", "x")
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", "postgresql://me:secret@host/db")
    with pytest.raises(InputError) as caught:
        load_settings(num_beams=99)
    for part in ("CAPSFUSION_DTYPE is 'half'", "CAPSFUSION_MODELS is not a setting", "; num_beams is 99: "):
        assert part in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HOME_SERVICE_HOST",
            "HOME_PORT",
            "HOME_PORT_80_TCP",
            "HOME_PORT_80_TCP_ADDR",
            "MODEL_SERVICE_PORT_HTTP",
            "PORT",
        ),
        *("AWS_CONN_ID", "ALERT_CONN_ID", "GPU_POD", "SCREENSHOTS", "SOMETHING_ELSE"),
    ],
)
def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = load_settings()
    monkeypatch.setenv(f"CAPSFUSION_{name}", "tcp://10.0.0.1:80")
    assert load_settings() == default


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    default = load_settings()
    for name in (*variables(Settings), "CAPSFUSION_NUM_BEAM"):
        monkeypatch.setenv(name, "")
    assert load_settings() == default


def test_a_secret_that_was_read_from_a_file_loses_its_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", "postgresql://me:secret@host/db\n")
    url = load_settings().warehouse_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://me:secret@host/db"
