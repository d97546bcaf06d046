"""Random environments: our settings, and variables that shells, containers and launchers set, all with any values."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from hypothesis import strategies as st

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.torchrun_command import environment_defaults, torchrun_environment
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.variables import OTHER_VARIABLES, unusable, variables
from capsfusion_tasks.warehouse.connection import open_warehouse

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
# Variables that libraries read while they are imported. torch's compilers read a hundred more like TORCHINDUCTOR_…
OF_LIBRARIES = (
    *("TORCH_LOGS", "TORCH_LOGS_FORMAT", "TORCH_LOGS_OUT", "TORCH_TRACE", "TORCH_DISTRIBUTED_DEBUG"),
    *("TORCHINDUCTOR_MIN_NUM_SPLIT", "TORCHDYNAMO_REPRO_LEVEL", "COMPILE_STROBELIGHT_SAMPLE_RATE", "PYTORCH_JIT"),
    *("TORCH_CPP_LOG_LEVEL", "TORCH_SHOW_CPP_STACKTRACES", "TORCH_CUDA_SANITIZER", "TORCH_MKLDNN_MATMUL_MIN_DIM"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_MATCHER_LOGLEVEL", "ATEN_CPU_CAPABILITY"),
    *("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "USE_LIBUV", "TRITON_CACHE_DIR", "TRITON_INTERPRET"),
    *("TRANSFORMERS_VERBOSITY", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "HF_HOME", "HF_HUB_VERBOSITY"),
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DISABLE_XET", "NUMPY_MADVISE_HUGEPAGE"),
    *("GOMP_CPU_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND", "OMP_SCHEDULE", "OMP_STACKSIZE", "OMP_WAIT_POLICY"),
    *("MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"),
    *("ARROW_DEFAULT_MEMORY_POOL", "PYTHONWARNINGS", "RUST_LOG", "RUST_BACKTRACE", "SSL_CERT_FILE"),
)
OF_LIBPQ = (
    *("PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGGEQO", "PGCLIENTENCODING", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT"),
    *("PGCONNECT_TIMEOUT", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER"),
    *("PGDATABASE", "PGPASSWORD", "PGAPPNAME", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGTARGETSESSIONATTRS"),
    *("PGGSSENCMODE", "PGLOADBALANCEHOSTS", "PGSSLNEGOTIATION", "PGMINPROTOCOLVERSION", "PGSSLMINPROTOCOLVERSION"),
)
OF_OURS = tuple(variables(Settings))
# All settings except those that name a folder to write to, a model to load, or a host to contact. Random text
# in those settings would do harm.
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
    """A misspelt name of a setting, or a variable like those that Kubernetes sets for a service."""
    name, at = draw(st.sampled_from(OF_OURS)), draw(st.integers(11, 20))
    ending = ("_SERVICE_HOST", "_PORT", "_PORT_80_TCP_ADDR", "S", "_X", "__X")
    return draw(st.sampled_from((name[:at] + name[at + 1 :], name.lower(), name + draw(st.sampled_from(ending)))))


OF_OTHERS = (*OF_LAUNCHERS, *OF_SHELLS, *OF_LIBRARIES, *OF_LIBPQ)
NAMES = st.sampled_from((*OF_OTHERS, *OTHER_VARIABLES)) | st.sampled_from(OF_OURS) | nearly()
ENVIRONMENTS = st.dictionaries(NAMES, VALUES, max_size=8)


def clean() -> dict[str, str]:
    """This process's environment without the variables that fuzz targets set."""
    given = {*OF_OTHERS}
    return {name: value for name, value in os.environ.items() if name not in given and name[:11] != "CAPSFUSION_"}


def read_environment(given: dict[str, str]) -> None:
    """Read settings from an environment. Either they are refused, or a child process must read the same settings."""
    with patch.dict(os.environ, {**clean(), **given}, clear=True):
        settings, refused = None, ""
        try:
            settings = load_settings()
        except InputError as error:
            refused = str(error)
    assert "\n" not in refused + "".join(unusable(given))
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
ALWAYS = (("--version",), ("--help",), ("fuse", "--help"))  # commands that must succeed for any values of the variables
COMMANDS = (*ALWAYS, ("settings",), ("status",), ("sql", "select 'é' as e"), ("validate", "fused.jsonl"), ("plan",))
FUSE = ("fuse", "pairs.jsonl", "out.jsonl", "--max-new-tokens", "4", "--num-beams", "1")
SQL = ("sql", "select 'é' as e")
OF_ALL = st.dictionaries(st.sampled_from((*OF_OTHERS, *_SETTINGS)) | nearly(), VALUES, max_size=6)
RUNS = (
    st.tuples(st.sampled_from(COMMANDS), OF_ALL)
    | st.tuples(st.just(FUSE), st.dictionaries(st.sampled_from((*OF_LAUNCHERS, *OF_SHELLS)), VALUES, max_size=8))
    | st.tuples(st.just(FUSE), st.dictionaries(st.sampled_from(OF_LIBRARIES), VALUES, max_size=3))
    | st.tuples(st.just(SQL), st.dictionaries(st.sampled_from(OF_LIBPQ), VALUES, max_size=3))
)


def run_command(run: tuple[tuple[str, ...], dict[str, str]]) -> None:
    """A command ends in time, with a documented exit code and without a traceback.

    `fuse` may fail only because of a library's variable. `sql` may fail to reach the embedded server only because of a
    variable of libpq. The message then names the variable, and does not advise a retry, which would fail again.
    """
    command, given = run
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.jsonl").write_text(PAIRS)
        (Path(folder) / "fused.jsonl").write_text(
            '{"laion_2b": "é", "laion_coco": "A dog.", "capsfusion": "\\u001b 图"}\n'
        )
        done = capsfusion(command, folder, given)
        said = done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stdout + done.stderr, said
        assert done.returncode in (0, 2, 75), said
        foreign = command == FUSE or (command == SQL and given.keys() <= {*OF_LIBPQ})
        if command in ALWAYS or (foreign and not is_refused(given, done)):
            assert done.returncode == 0, said
        if command == FUSE and done.returncode == 0:
            assert (Path(folder) / "out.jsonl").read_text() == fused_in_a_clean_environment()


def is_refused(given: dict[str, str], done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether the command has exit code 2 and an error of one line that names a variable of a library."""
    last = done.stderr.decode(errors="replace").rstrip().split("\n")[-1]
    named = [name for name in given if name in (*OF_LIBRARIES, *OF_LIBPQ) and name in last]
    return done.returncode == 2 and last.startswith("capsfusion: error: ") and bool(named)


def capsfusion(command: tuple[str, ...], folder: str, given: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    root = str(Path(__file__).parents[2])
    environment = {**clean(), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "2000", "TMPDIR": folder}
    if command == SQL:
        environment["CAPSFUSION_HOME"] = str(home_with_tables())
    environment |= given
    argv = [sys.executable, "-m", "capsfusion_tasks.cli", *command]
    return subprocess.run(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=100)


@cache
def fused_in_a_clean_environment() -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.jsonl").write_text(PAIRS)
        done = capsfusion(FUSE, folder, {})
        assert done.returncode == 0, done.stderr
        return (Path(folder) / "out.jsonl").read_text()


@cache
def home_with_tables() -> Path:
    """A home folder with an embedded warehouse. Made once, deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="capsfusion-fuzz-home-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with open_warehouse(load_settings(home=folder)):
        return folder
