"""Parts that several DAGs share: default arguments, Params, and the tasks for a work unit (fuse, validate, load)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import fusion_metrics
import gate_alert
from airflow.sdk import (
    Asset,
    Param,
    TriggerRule,
    get_current_context,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowSkipException
from gate_question import GateQuestion
from gpu_pod import gpu_executor_config
from load_operator import LoadOperator
from retry_backoff import FIRST_DELAY, RETRIES, RetryBackoff
from run_context import set_label, working
from torchrun_operator import TorchrunOperator

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk import Context

Json = dict[str, Any]

# Other DAGs can be scheduled on this asset. Its events say how many captions a run has loaded.
CAPTIONS = Asset("fused_captions")

# With this limit, all units of a run may run at the same time: a run has at most 1,024 units (MAX_UNITS of
# planning/unit_files.py). Airflow's default limit is 16 tasks. How many tasks really run depends on the pool `gpu`, the
# executor's `parallelism` and the workers' slots.
MAX_ACTIVE_TASKS = 1024

DEFAULT_ARGS = {
    "owner": "capsfusion",
    "retries": RETRIES,
    "retry_delay": FIRST_DELAY,  # only used if the worker is lost, because only a worker can apply the retry policy
    "retry_policy": RetryBackoff(),
    # Gives later tasks a higher priority: a unit is validated and loaded before the next unit is fused. So a unit with
    # many bad captions is noticed early. The quality gate holds this unit (does not load it), but does not stop the
    # run: the run fuses all other units, and then asks a person about the held units. A person who reads the message
    # about the first held unit (plugins/gate_alert.py) can stop the run earlier.
    "weight_rule": "upstream",
}

# A pattern of the addresses that an export can write to. With this pattern, Airflow refuses other addresses when a run
# is triggered. Without the pattern, the run would fail in its export, after its pairs are fused.
EXPORT_PLACES = r"^(/|s3://|hf://datasets/[^/]+/)."

MODEL_PARAMS = {
    "model": Param(
        None,
        title="Model",
        type=["null", "string"],
        minLength=1,
        description="Folder or hub id of the model. The workers that run the discover and plan tasks must be able to"
        " read the folder. Empty: the setting CAPSFUSION_MODEL.",
    ),
    "prompt": Param(
        None,
        title="Prompt",
        type=["null", "string"],
        minLength=1,
        description="File with the prompt, in which {raw} and {synthetic} stand for the two captions. The workers that"
        " run the discover and plan tasks must be able to read the file. Empty: the setting CAPSFUSION_PROMPT.",
    ),
    "num_beams": Param(
        None,
        title="Beams",
        type=["null", "integer"],
        minimum=1,
        maximum=16,
        description="Number of beams of the beam search, 1 to 16. Empty: the setting CAPSFUSION_NUM_BEAMS.",
    ),
    "keep_beams": Param(
        None,
        title="Keep all beams",
        type=["null", "boolean"],  # the form shows a switch, and sends null if the user does not touch it
        description="Keep all captions of the beam search, so that another caption can replace a rejected one."
        " If not set: the setting CAPSFUSION_KEEP_BEAMS.",
    ),
}

FILTER_PARAM = {
    "filter": Param(
        None,
        title="Filter",
        type=["null", "object"],
        description="Use only captions that match this filter. The captions view fills in this field. Empty: use all.",
    ),
}


def limit_param(description: str) -> Param:
    """The Param ``limit``: a number of pairs or captions, or empty for all of them."""
    return Param(None, title="Limit", type=["null", "integer"], minimum=1, description=description)


BUDGET_PARAMS = {
    "limit": limit_param("Fuse at most this many pairs, for example for a trial run. Empty: all pairs."),
    "max_gpu_hours": Param(
        None,
        title="Most GPU hours",
        type=["null", "number"],
        minimum=0,
        description="Stop before fusing if the estimate exceeds this number of GPU hours. Empty: no limit.",
    ),
    "max_cost": Param(
        None,
        title="Highest cost",
        type=["null", "number"],
        minimum=0,
        description="Stop before fusing if the estimated cost is above this limit, in the currency of the setting"
        " CAPSFUSION_GPU_HOUR_PRICE, which must be set. Empty: no limit.",
    ),
}


@task(execution_timeout=timedelta(hours=1), map_index_template="{{ label }}")
def validate(unit: Json) -> Json:
    """Accepts or rejects each caption of the unit. If too many are rejected, the unit is held (not loaded).

    Reports the first held unit of a run to the webhook of CAPSFUSION_ALERT_CONN_ID.
    """
    from capsfusion_tasks.schemas import Unit
    from capsfusion_tasks.tasks import metrics, unit_tasks

    context = get_current_context()
    set_label(context, Unit(**unit).label)
    accept = context["params"]["accept_rejections"]
    with working() as work:
        with fusion_metrics.timed("validate"):
            counts = unit_tasks.validate(
                work, Unit(**unit), accept_rejections=accept, hold=True, dag_run_id=context["run_id"]
            )
        if counts["held"]:
            gate_alert.tell(context, work, Unit(**unit), counts)
    if counts["held"]:
        set_label(context, f"held: {Unit(**unit).label}")
    fusion_metrics.send(metrics.validated(counts))
    return counts


@task_group(prefix_group_id=False)
def each_unit(unit: Json) -> None:
    fuse = TorchrunOperator(
        task_id="fuse",
        unit=unit,
        pool="gpu",
        queue="gpu",
        executor_config=gpu_executor_config(),
        doc_md="Fuses the unit's pairs with torchrun: one rank per GPU, or one rank on the CPU.",
        execution_timeout=timedelta(hours=2),
        map_index_template="{{ label }}",
    )
    verdicts = validate(unit)
    load = LoadOperator(
        task_id="load",
        unit=unit,
        execution_timeout=timedelta(hours=1),
        map_index_template="{{ label }}",
        doc_md="Loads the unit's captions and marks the unit as loaded, in one transaction.",
    )
    fuse >> verdicts >> load


def asked(loaded: Any) -> Any:
    """Add the tasks ``ask`` and ``load_held`` after the tasks ``loaded``.

    ``ask`` asks a person about the units that the gate holds. ``load_held`` loads these units if the answer is Load.
    """
    question = GateQuestion(
        task_id="ask",
        trigger_rule=TriggerRule.ALL_DONE,
        execution_timeout=timedelta(minutes=15),  # does not include the wait for an answer
        # Retry soon: if somebody answers quickly, Airflow may consider the task crashed (plugins/kept_answer.py).
        retry_delay=timedelta(seconds=5),
        doc_md="Asks whether to load the units that the gate holds. Skipped if the gate holds none.",
    )
    load_held = LoadOperator.partial(
        task_id="load_held",
        execution_timeout=timedelta(hours=1),
        map_index_template="{{ label }}",
        doc_md="Loads the units that the gate held, after the answer *Load*.",
    ).expand(unit=question.output)
    loaded >> question
    return load_held


def skip_without_captions(counts: Json) -> None:
    """Skip the task if the run loaded no accepted caption. A skipped task emits no event of its assets."""
    if not counts["accepted"]:
        raise AirflowSkipException("this run has loaded no accepted caption")


def tell_followers(context: Context, counts: Json, **about: Any) -> None:
    """Attach ``counts`` and ``about`` to the event of the asset ``fused_captions``, for DAGs that follow the asset."""
    context["outlet_events"][CAPTIONS].extra = {**about, **counts}


def require_all_done(context: Context, report: Json) -> None:
    """Raise InputError if a task or a unit of the run is not done. The last task calls this, to fail the run."""
    broken = context["ti"].get_ti_count(
        dag_id=context["dag"].dag_id, run_ids=[context["run_id"]], states=["failed", "upstream_failed"]
    )
    if broken:
        raise InputError(
            f"{broken} tasks of this run did not succeed: see the log of the first failed task, then clear that task"
        )
    if waiting := sum(report["units"].values()) - report["units"]["loaded"]:
        raise InputError(f"{waiting} units are planned, but Airflow has no tasks for them: clear this run once more")
