"""Runs the components of a local Airflow: ``python -m capsfusion_tasks.demo.airflow_components``.

``airflow standalone`` starts a Python process for each component, and each of them imports Airflow, which takes 3 to
5 s of CPU time. Here, one process imports Airflow, and forks the components. This process can start before the database
server does, because it waits for a line on its standard input before it uses the database. On SIGINT, it ends all
components.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress

from setproctitle import setproctitle

from capsfusion_tasks.demo.airflow_processes import end_with_parent

# Modules that components import anyway. _BASE is imported before all components are forked. _JOBS is imported after the
# API server is forked, because the API server does not need _JOBS and should start as early as possible.
_BASE = ("airflow.__main__", "airflow.cli.commands.api_server_command", "airflow.models", "airflow.utils.db")
_JOBS = (
    "airflow.executors.local_executor",
    "airflow.jobs.dag_processor_job_runner",
    "airflow.jobs.scheduler_job_runner",
    "airflow.jobs.triggerer_job_runner",
)
# Modules that task processes import. The scheduler's LocalExecutor forks a process for each task. If the scheduler
# imports these modules before it forks, each task saves more than a second of CPU time.
_TASKS = (
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.hitl",
    "airflow.sdk.definitions.decorators",
    "capsfusion_tasks.tasks.gate_tasks",
    "capsfusion_tasks.tasks.interval_tasks",
    "capsfusion_tasks.tasks.replay",
    "capsfusion_tasks.tasks.unit_tasks",
)


def main() -> int:
    """Run the components until SIGINT, or until all have ended. Returns 1 if there is no migrated database."""
    # The imports make millions of objects, none of which is garbage. Searching them for garbage would take a fifth of
    # the imports' time.
    gc.disable()
    _import(_BASE)
    # Airflow's first command writes airflow.cfg if it is missing, with the secrets that all components must share.
    _airflow("config", "get-value", "core", "executor")
    migrated, announce = os.pipe()

    def serve() -> None:
        os.close(announce)
        _import(["airflow.api_fastapi.main"])  # takes most of the API server's start time, and needs no database
        os.read(migrated, 1)  # returns when the parent closes the pipe, after the migration of the database
        _component("api-server")

    children = {_fork("api-server", serve): "api-server"}
    os.nice(5)  # the API server (forked above) gets more CPU time, because all other processes wait for it
    try:
        _import(_JOBS)
        if not sys.stdin.readline():
            return 1
        migration = _fork("db migrate", lambda: _airflow("db", "migrate"))
        if os.waitpid(migration, 0)[1]:
            return 1
        os.close(announce)
        for name, run in {"scheduler": _schedule, "dag-processor": _parse, "triggerer": _trigger}.items():
            children[_fork(name, run)] = name
        while children:
            pid, status = os.wait()
            if pid in children:
                code = os.waitstatus_to_exitcode(status)
                print(f"{children.pop(pid)} has ended with exit code {code}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    for pid in children:
        os.waitpid(pid, 0)
    return 0


def _schedule() -> None:
    from capsfusion_tasks.validation import language

    _import(_TASKS)
    language.identifier()  # also load the language model before the scheduler forks tasks
    _component("scheduler")


def _parse() -> None:
    _component("dag-processor")


def _trigger() -> None:
    # The triggerer only waits until users decide whether to load a work unit with many rejected captions. Therefore the
    # other components get more CPU time.
    os.nice(10)
    _component("triggerer")


def _component(name: str) -> None:
    """Run a component of Airflow in this process, with garbage collection."""
    gc.freeze()  # the imported modules stay until the process ends
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    _airflow(name)


def _airflow(*command: str) -> None:
    """Do in this process what ``python -m airflow COMMAND`` does."""
    sys.argv = ["airflow", *command]
    runpy.run_module("airflow", run_name="__main__")


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _fork(name: str, run: Callable[[], None]) -> int:
    """Call ``run`` in a child process. Returns the child's process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        end_with_parent(signal.SIGTERM)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        setproctitle(f"airflow {name}")
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        # Skip Python's cleanup, which takes 3 s for the scheduler.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
