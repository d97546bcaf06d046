"""Which errors are tried again, by the policy that the DAGs give to all of their tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import json, sys
sys.path.insert(0, "plugins")
from airflow.sdk.exceptions import AirflowTaskTimeout
from dag_parts import DEFAULT_ARGS
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.launcher import TorchrunFailed

kinds = [InputError, NotReadyError, TorchrunFailed, AirflowTaskTimeout, OSError, MemoryError]
policy = DEFAULT_ARGS["retry_policy"]
decided = {kind.__name__: policy.evaluate(kind("told"), 1, DEFAULT_ARGS["retries"]).action.name for kind in kinds}
print(json.dumps(decided))
"""


def test_bad_input_fails_at_once_and_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CAPSFUSION_")}
    env |= {"AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decided = json.loads(done.stdout.splitlines()[-1])
    assert decided.pop("InputError") == "FAIL"
    assert len(decided) == 5  # a hung rank, a crashed one, a timeout, a full disk, memory that ran out
    assert set(decided.values()) <= {"RETRY", "DEFAULT"}
