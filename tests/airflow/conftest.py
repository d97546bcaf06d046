"""Starts one Airflow for all tests of this folder, because it takes 20 seconds to start."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from capsfusion_tasks.demo import airflow_processes
from capsfusion_tasks.demo.airflow_api import DAG, AirflowApi, Json
from capsfusion_tasks.demo.airflow_server import USER, local_airflow
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from tests import object_store
from tests.airflow.monitoring import StatsdListener, Webhook, monitored, statsd_listener, webhook_server
from tests.conftest import TEMPLATE

WAREHOUSE = "warehouse"
CREATE_WAREHOUSE = f"create database {WAREHOUSE} template {TEMPLATE}"
NOBODY = "nobody"  # a user who may log in, but do nothing else
RUN_SECONDS = 400
GATE_ROWS = 26  # the gate judges only units with at least this many rows; the sample's units are smaller
PLANTED = "pl4nted"  # part of every secret of the service, and of no other text, so that tests find leaked secrets


def wait_until(what: str, is_so: Callable[[], Any], seconds: float, pause: float = 0.5) -> Any:
    """Wait until ``is_so`` returns a true value, and return this value. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
    return answer


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass
class Service:
    """A running Airflow. Its tasks use the database WAREHOUSE, and keep all files on S3."""

    api: AirflowApi
    server: EmbeddedPostgres
    folder: Path  # folder with the files of Airflow
    bucket: str
    alerts: list[str]  # texts that Airflow's webhook has received
    statsd: StatsdListener  # the server that receives Airflow's metrics

    @property
    def sources(self) -> Path:
        """The folder with the sample's shards, which are uploaded to S3 from here."""
        return self.folder / "sources"

    @property
    def staging(self) -> str:
        return f"{self.bucket}/airflow/staging"

    @property
    def lineage(self) -> Path:
        """The folder into which Airflow writes OpenLineage's events, one file for each event."""
        return self.folder / "openlineage"

    def upload_sources(self) -> None:
        object_store.upload(self.sources, f"{self.bucket}/airflow/sources")

    def start_backfill(self, first: date, last: date, **options: Any) -> None:
        wait_until("backfills of other tests end", lambda: not self.api.close_backfills(), RUN_SECONDS)
        self.api.backfill(
            midnight(first), midnight(last), **{"reprocess": "completed", "max_active_runs": 3, **options}
        )

    def backfill(self, first: date, last: date, **options: Any) -> dict[str, str]:
        """Backfill the days from ``first`` to ``last``. Returns day → state of its run."""
        self.start_backfill(first, last, **options)
        return {run["logical_date"][:10]: run["state"] for run in self.wait_for_runs(first, last)}

    def wait_for_runs(self, first: date, last: date) -> list[Json]:
        found = "select state from dag_run where dag_id = :dag and logical_date between :first and :last"
        span = {"first": midnight(first), "last": midnight(last)}

        def ended() -> bool:
            states = self.in_airflow(found, dag=DAG, **span)
            return bool(states) and set(states) <= {"success", "failed"}

        wait_until(f"the runs of {first} to {last} end", ended, RUN_SECONDS)
        return self.runs(first, last)

    def wait_for_end(self, run_id: str) -> str:
        """Wait until the run of any DAG has ended, and return its state."""
        ended = "select state from dag_run where run_id = :run_id and state in ('success', 'failed')"
        [state] = wait_until(f"run {run_id} ends", lambda: self.in_airflow(ended, run_id=run_id), RUN_SECONDS)
        return str(state)

    def runs(self, first: date, last: date) -> list[Json]:
        return self.api.runs(logical_date_gte=f"{first}T00:00:00Z", logical_date_lte=f"{last}T00:00:00Z")

    def states(self, day: date, task: str) -> list[str | None]:
        """The states of the task's instances in the run of that day, in the order of their map indexes."""
        instances = [each for each in self.instances(day) if each["task_id"] == task]
        return [each["state"] for each in sorted(instances, key=lambda each: each["map_index"])]

    def instances(self, day: date) -> list[Json]:
        return self.api.task_instances(self.runs(day, day)[0]["dag_run_id"])

    def query(self, statement: str) -> list[dict[str, Any]]:
        with self._warehouse.connect() as connection:
            connection.execute(text("set search_path = capsfusion"))
            return [dict(row) for row in connection.execute(text(statement)).mappings()]

    def new_warehouse(self, *, keep: str) -> None:
        """Rename the warehouse to ``keep``. Then create an empty warehouse and an empty staging area."""
        object_store.remove(self.staging)
        as_admin(
            self.server,
            # A database with connections cannot be renamed. The captions view keeps some open in Airflow's API server.
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{WAREHOUSE}'",
            f"alter database {WAREHOUSE} rename to warehouse_{keep}",
            CREATE_WAREHOUSE,
        )

    def deadlines(self, run_id: str) -> list[Any]:
        """Ids of the run's deadlines that were not missed. Airflow's API lacks them, so this reads its database."""
        return self.in_airflow(
            "select deadline.id from deadline join dag_run run on run.id = dagrun_id"
            " where run_id = :run_id and not missed",
            run_id=run_id,
        )

    def let_deadlines_pass(self, run_id: str) -> None:
        statement = "update deadline set deadline_time = now() where id = any(:ids) returning id"
        assert self.in_airflow(statement, ids=self.deadlines(run_id))

    def let_question_time_out(self, run_id: str) -> None:
        statement = (
            "update task_instance set trigger_timeout = now() where run_id = :run_id and task_id = 'ask' returning id"
        )
        assert self.in_airflow(statement, run_id=run_id)

    def lose_worker_after_answer(self, run_id: str, option: str) -> None:
        """Answer the run's question, and make Airflow believe that the worker has died right after the answer."""
        statement = """
            with answered as (
                update hitl_detail
                set responded_at = now(), responded_by = cast(:user as json), chosen_options = cast(:chosen as json)
                from task_instance ti where ti.id = ti_id and run_id = :run_id and task_id = 'ask' returning ti_id
            )
            update task_instance set state = 'running', last_heartbeat_at = now() - interval '1 day'
            where id in (select ti_id from answered) returning id
        """
        user = json.dumps({"id": USER, "name": USER})
        assert self.in_airflow(statement, run_id=run_id, user=user, chosen=json.dumps([option]))

    def in_airflow(self, statement: str, **values: Any) -> list[Any]:
        """The first column of what a statement finds in Airflow's database.

        Waits use this, because a call of Airflow's API takes far more CPU time from the tasks that they wait for.
        """
        with self._airflow.begin() as connection:
            return list(connection.execute(text(statement), values).scalars())

    @cached_property
    def _airflow(self) -> Engine:
        return create_engine(self.server.url("airflow"))

    @cached_property
    def _warehouse(self) -> Engine:
        # It keeps no connection, because ``new_warehouse`` ends all connections.
        return create_engine(self.server.url(WAREHOUSE), poolclass=NullPool)

    def close(self) -> None:
        self._airflow.dispose()

    def password(self, user: str) -> str:
        passwords = self.folder / "airflow" / "simple_auth_manager_passwords.json.generated"
        return str(json.loads(passwords.read_text())[user])

    def ranks(self) -> list[psutil.Process]:
        """Processes that fuse for this Airflow. torchrun and its ranks have the staging area among their arguments."""

        def is_ours(process: psutil.Process) -> bool:
            arguments = " ".join(process.info["cmdline"] or ())
            return "capsfusion_tasks.fusion.worker" in arguments and self.staging in arguments

        return [process for process in psutil.process_iter(["cmdline"]) if is_ours(process)]


def as_admin(server: EmbeddedPostgres, *statements: str) -> None:
    engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    with webhook_server(f"/hooks/{PLANTED}") as server:
        yield server


RUNNING = ExitStack()


# trylast: runs after the fixtures of the last test have ended, because these may still use Airflow.
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End Airflow after the last test here, because its idle processes would take a quarter of a core from other tests.

    A fixture of scope "package" would need an __init__.py, and this folder would then be imported as the package
    airflow.
    """
    if nextitem is None or not nextitem.nodeid.startswith("tests/airflow/"):
        RUNNING.close()


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, s3_bucket: str, webhook: Webhook
) -> Iterator[Service]:
    with RUNNING:  # so that Airflow ends even if pytest stops at a failure
        yield RUNNING.enter_context(running_service(tmp_path_factory.mktemp("service"), postgres, s3_bucket, webhook))


@contextmanager
def running_service(folder: Path, server: EmbeddedPostgres, s3_bucket: str, webhook: Webhook) -> Iterator[Service]:
    as_admin(server, CREATE_WAREHOUSE, "create database airflow")
    with statsd_listener() as statsd:
        environment = {
            **monitored(folder / "openlineage", statsd.port),
            "CAPSFUSION_HOME": str(folder),
            "CAPSFUSION_STAGING": f"{s3_bucket}/airflow/staging",
            "CAPSFUSION_SCRATCH": str(folder / "scratch"),
            # The server accepts any password, so the planted secret can serve as one.
            "CAPSFUSION_WAREHOUSE_URL": server.url(WAREHOUSE)
            .set(password=PLANTED)
            .render_as_string(hide_password=False),
            "CAPSFUSION_AWS_CONN_ID": "store",
            "AIRFLOW_CONN_STORE": json.dumps({"conn_type": "aws", "login": "test", "password": PLANTED}),
            "HF_TOKEN": PLANTED,
            "CAPSFUSION_LAION2B": f"{s3_bucket}/airflow/sources/{FOLDER['laion_2b']}",
            "CAPSFUSION_LAION_COCO": f"{s3_bucket}/airflow/sources/{FOLDER['laion_coco']}",
            "CAPSFUSION_BUCKETS": "4",
            "CAPSFUSION_NUM_BEAMS": "1",
            "CAPSFUSION_BATCH_SIZE": "8",  # units have more rows, so that a test can interrupt a unit half-way
            "CAPSFUSION_CHUNK_ROWS": "4",
            "CAPSFUSION_UNIT_TOKENS": "10000",  # one unit a day, because each unit starts torchrun
            "CAPSFUSION_GATE__MIN_ROWS": str(GATE_ROWS),
            # Look every five seconds for questions that nobody has answered in time, and for workers that died.
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__POOL_METRICS_INTERVAL": "60",
            "CAPSFUSION_ALERT_CONN_ID": "alerts",
            "AIRFLOW_CONN_ALERTS": json.dumps({"conn_type": "http", "password": webhook.url}),
        }
        database = server.url("airflow", driver="psycopg2").render_as_string(hide_password=False)
        with local_airflow(folder, database, environment, say=print, users=f"{USER}:admin,{NOBODY}:") as airflow:
            # No test is about this DAG, which would run after each run that loads captions.
            airflow.api.request("PATCH", "/dags/capsfusion_lake", {"is_paused": True})
            service = Service(airflow.api, server, folder, s3_bucket, webhook.texts, statsd)
            yield service
            service.close()
            airflow_processes.STOP_SECONDS = 2  # kill Airflow soon, because its data are not needed any more
