"""Tests which errors make the DAGs' retry policy retry a task."""

from __future__ import annotations

import json
import os

from tests.plugin_process import PluginProcess

CODE = """
import json
from airflow.sdk.exceptions import AirflowTaskTimeout
from dag_parts import DEFAULT_ARGS
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.errors import TorchrunFailed

kinds = [InputError, NotReadyError, TorchrunFailed, AirflowTaskTimeout, OSError, MemoryError]
policy = DEFAULT_ARGS["retry_policy"]
decided = {kind.__name__: policy.evaluate(kind("told"), 1, DEFAULT_ARGS["retries"]).action.name for kind in kinds}
waits = {
    name: [policy.evaluate(OSError(), nth, most).retry_delay for nth in range(most - 2, most + 1)]
    for name, most in (("first", 3), ("cleared", 9))
}
past_last = policy.evaluate(OSError(), 4, 3).action.name
seconds = {name: [wait.total_seconds() for wait in each] for name, each in waits.items()}
print(json.dumps({"decided": decided, "seconds": seconds, "past_last": past_last}))
"""


def test_bad_input_fails_at_once_and_all_else_is_retried_with_a_delay_that_begins_anew_after_a_clear(
    plugins: PluginProcess,
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CAPSFUSION_")}
    done = plugins.run(CODE, env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] == {"first": [30, 60, 120], "cleared": [30, 60, 120]}
    assert found["past_last"] == "DEFAULT"
    decided = found["decided"]
    assert decided.pop("InputError") == "FAIL"
    assert len(decided) == 5  # errors of a hung rank, a crashed rank, a timeout, a full disk, exhausted memory
    assert set(decided.values()) <= {"RETRY", "DEFAULT"}
