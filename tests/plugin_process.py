"""Runs code in processes that have imported Airflow and the plugins, as the processes of tasks have.

Such a process is forked from one process that has imported them, as Airflow's executor does, because the imports take
seconds of CPU time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

# Forks a process for each line of its input, and answers with the process's exit status.
PARENT = """
import json, os, sys, traceback
sys.path.insert(0, "plugins")
import dag_parts, gate_question, load_operator, run_context, torchrun_operator
from capsfusion_tasks.tasks import gate_tasks, interval_tasks, unit_tasks

def run(job):
    for name, number in (("out", 1), ("err", 2)):
        with open(os.path.join(job["folder"], name), "w") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(job["environment"])
    try:
        exec(job["code"], {"__name__": "__main__"})
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

for line in sys.stdin:
    if (child := os.fork()) == 0:
        os._exit(run(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class PluginProcess:
    """The process from which others are forked."""

    process: subprocess.Popen[str]
    folder: Path

    def run(self, code: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a process with these variables. The folder ``plugins`` is on its path."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"code": code, "environment": {**environment, "AIRFLOW_HOME": str(self.folder)}}
        print(json.dumps({**job, "folder": str(self.folder)}), file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(code, status, out, err)

    def answer(self, code: str, **variables: str) -> Any:
        """The JSON in the last line that ``code`` prints. ``variables`` are added to this process's environment.

        Raises AssertionError if the process fails.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        done = self.run(code, {**inherited, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **variables})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def plugin_process(folder: Path) -> Iterator[PluginProcess]:
    """Start the process, with ``folder`` as AIRFLOW_HOME and without variables of Airflow and of the package."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "CAPSFUSION_"))}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=REPOSITORY,
        env={**clean, "AIRFLOW_HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield PluginProcess(process, folder)
