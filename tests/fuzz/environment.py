"""Random environments: variables of shells, containers and other launchers, and settings with any values."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from hypothesis import strategies as st

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.launcher import environment_defaults, torchrun_environment
from capsfusion_tasks.settings import OTHER_VARIABLES, Settings, load_settings
from capsfusion_tasks.variables import variables

OF_LAUNCHERS = (
    *("PET_NNODES", "PET_NPROC_PER_NODE", "PET_RDZV_BACKEND", "PET_RDZV_ENDPOINT", "PET_RDZV_CONF", "PET_NODE_RANK"),
    *(
        "PET_MAX_RESTARTS",
        "PET_MASTER_ADDR",
        "PET_STANDALONE",
        "PET_NO_PYTHON",
        "PET_RUN_PATH",
        "PET_LOG_DIR",
        "PET_TEE",
    ),
    *(
        "PET_TEE",
        "PET_VIRTUAL_LOCAL_RANK",
        "PET_MONITOR_INTERVAL",
        "PET_START_METHOD",
        "PET_REDIRECTS",
        "PET_SHUTDOWN_TIMEOUT",
    ),
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_NAME"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"),
    *("TORCHELASTIC_MAX_RESTARTS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "PYTHON_EXEC", "LOGLEVEL", "OMP_NUM_THREADS"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "CUDA_VISIBLE_DEVICES"),
    *("NVIDIA_VISIBLE_DEVICES", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT", "JOB_NAME"),
)
OF_SHELLS = (
    *("TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLORTERM", "LANG", "LC_ALL", "LC_NUMERIC"),
    *("LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "EDITOR", "PAGER", "DISPLAY"),
    *(
        "PS1",
        "ENV",
        "BASH_ENV",
        "CDPATH",
        "IFS",
        "DEBUG",
        "VERBOSE",
        "VIRTUAL_ENV",
        "XDG_RUNTIME_DIR",
        "XDG_CACHE_HOME",
    ),
)
OF_OURS = tuple(variables(Settings))
# Not set to random text: these are folders that are written to, programs that run, or hosts that are requested.
_SETTINGS = tuple(
    name for name in OF_OURS if not name.endswith(("_HOME", "_MODEL", "_STAGING", "_SCRATCH", "_WAREHOUSE_URL"))
)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-3, 5).map(str) | st.floats().map(str) | st.integers().map(str)
WORDS = st.sampled_from(
    (
        *(
            "",
            " ",
            "auto",
            "none",
            "true",
            "False",
            "yes",
            "0",
            "1",
            "-1",
            "1,2",
            "info",
            "DEBUG",
            "[",
            "{}",
            "null",
            "[1]",
        ),
        *(
            "~",
            "~/x",
            "~nobody/x",
            ".",
            "/",
            "/nowhere",
            "a/b",
            "s3:/b/x",
            "s3://",
            "gs://b",
            "file:///tmp",
            "http://[",
        ),
        *(
            "10.0.0.1",
            "10.0.0.1:29500",
            "tcp://10.0.0.1:80",
            "C",
            "POSIX",
            "C.UTF-8",
            "de_DE",
            "dumb",
            "xterm",
            "é",
            "💡",
        ),
    )
)
VALUES = WORDS | NUMBERS | TEXT


@st.composite
def nearly(draw: st.DrawFn) -> str:
    """A setting's name with a mistake in it, or a variable as Kubernetes derives it from a service's name."""
    name, at = draw(st.sampled_from(OF_OURS)), draw(st.integers(11, 20))
    ending = ("_SERVICE_HOST", "_PORT", "_PORT_80_TCP_ADDR", "S", "_X", "__X")
    return draw(st.sampled_from((name[:at] + name[at + 1 :], name.lower(), name + draw(st.sampled_from(ending)))))


NAMES = st.sampled_from((*OF_LAUNCHERS, *OF_SHELLS, *OTHER_VARIABLES)) | st.sampled_from(OF_OURS) | nearly()
ENVIRONMENTS = st.dictionaries(NAMES, VALUES, max_size=8)


def clean() -> dict[str, str]:
    """This process's environment without the variables that the target sets."""
    given = {*OF_LAUNCHERS, *OF_SHELLS}
    return {name: value for name, value in os.environ.items() if name not in given and name[:11] != "CAPSFUSION_"}


def read_environment(given: dict[str, str]) -> None:
    """Settings are read or refused, and keep their values when passed on. torchrun's arguments stay the same."""
    with patch.dict(os.environ, {**clean(), **given}, clear=True):
        settings, refused = None, ""
        try:
            settings = load_settings()
        except InputError as error:
            refused = str(error)
    assert "\n" not in refused
    if settings is not None:
        assert settings.home.is_absolute()
        with patch.dict(os.environ, {**clean(), **settings.environment()}, clear=True):
            assert load_settings() == settings
    environment = torchrun_environment(environment_defaults(Settings()), {**clean(), **given})
    assert torchrun_arguments(environment) == torchrun_arguments(clean())


def torchrun_arguments(environment: dict[str, str]) -> Namespace:
    from torch.distributed.run import get_args_parser

    with patch.dict(os.environ, environment, clear=True):
        return get_args_parser().parse_args(["--standalone", "--nproc-per-node", "1", "-m", "worker"])


# ---- whole commands ----

PAIRS = '{"laion_2b": "Rex the dog", "laion_coco": "A dog on grass."}\n'
ALWAYS = (("--version",), ("--help",), ("fuse", "--help"))  # commands that must succeed with any variables
COMMANDS = (*ALWAYS, ("settings",), ("status",), ("sql", "select 'é' as e"), ("validate", "fused.jsonl"), ("plan",))
FUSE = ("fuse", "pairs.jsonl", "out.jsonl", "--max-new-tokens", "4", "--num-beams", "1")
OF_OTHERS = st.dictionaries(st.sampled_from((*OF_LAUNCHERS, *OF_SHELLS)), VALUES, max_size=8)
OF_ALL = st.dictionaries(st.sampled_from((*OF_LAUNCHERS, *OF_SHELLS, *_SETTINGS)) | nearly(), VALUES, max_size=6)
RUNS = st.tuples(st.sampled_from(COMMANDS), OF_ALL) | st.tuples(st.just(FUSE), OF_OTHERS)


def run_command(run: tuple[tuple[str, ...], dict[str, str]]) -> None:
    """A command ends in time, with a documented exit code and without a traceback."""
    command, given = run
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.jsonl").write_text(PAIRS)
        (Path(folder) / "fused.jsonl").write_text(
            '{"laion_2b": "é", "laion_coco": "A dog.", "capsfusion": "\\u001b 图"}\n'
        )
        done = capsfusion(command, folder, given)
        said = done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stdout + done.stderr, said
        if command in ALWAYS or command == FUSE:
            assert done.returncode == 0, said
        assert done.returncode in (0, 2, 75), said
        if command == FUSE:
            assert (Path(folder) / "out.jsonl").read_text() == fused_in_a_clean_environment()


def capsfusion(command: tuple[str, ...], folder: str, given: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    root = str(Path(__file__).parents[2])
    environment = {**clean(), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "2000", **given}
    argv = [sys.executable, "-m", "capsfusion_tasks.cli", *command]
    return subprocess.run(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=100)


@cache
def fused_in_a_clean_environment() -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.jsonl").write_text(PAIRS)
        done = capsfusion(FUSE, folder, {})
        assert done.returncode == 0, done.stderr
        return (Path(folder) / "out.jsonl").read_text()
