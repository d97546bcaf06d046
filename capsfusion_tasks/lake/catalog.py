"""Opens the Iceberg catalog and the table of captions that ``CAPSFUSION_LAKE_TABLE`` names.

PyIceberg's configuration can define the catalog under the name ``capsfusion``: in ``.pyiceberg.yaml``, or in the
environment variables ``PYICEBERG_CATALOG__CAPSFUSION__…``. Without such a definition, the catalog's own tables are in
the warehouse (PostgreSQL), and the files of the Iceberg table are in ``CAPSFUSION_HOME``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pyarrow as pa
from sqlalchemy.exc import DBAPIError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.lake_units import make_catalog_schema
from capsfusion_tasks.warehouse.sqlstates import may_pass, one_line

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

CATALOG = "capsfusion"

_KEYS = {"pair_id", "fusion_id", "unit_id", "loaded_at"}  # columns that sync.py and maintenance.py need
_PROPERTIES = {
    # Delete old metadata files and merge manifests. Each commit writes all snapshots to a new metadata file and adds a
    # manifest, so the thousands of commits of a first sync would leave thousands of metadata files and manifests.
    "write.metadata.delete-after-commit.enabled": "true",
    "commit.manifest-merge.enabled": "true",
}


@dataclass(frozen=True)
class Lake:
    """A table of an Iceberg catalog. ``name``: namespace and table, separated by a dot."""

    catalog: Catalog
    name: str

    def table(self) -> Table | None:
        """Load the table. Returns None if it does not exist. Raises InputError if it is not a table of captions."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            table = self.catalog.load_table(self.name)
        except NoSuchTableError:
            return None
        if missing := _KEYS.difference(table.schema().column_names):
            raise InputError(
                f"the Iceberg table {self.name} is not a table of captions: it lacks {', '.join(sorted(missing))};"
                " set CAPSFUSION_LAKE_TABLE to another table"
            )
        return table

    def create(self, columns: pa.Schema) -> Table:
        """Create the table with ``columns``, partitioned by fusion (model and settings) and day of loading."""
        from pyiceberg.transforms import DayTransform

        self.catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
        with (
            self.catalog.create_table_transaction(self.name, columns, properties=_PROPERTIES) as transaction,
            transaction.update_spec() as partitions,
        ):
            partitions.add_identity("fusion_id")
            partitions.add_field("loaded_at", DayTransform(), "loaded_day")
        return self.catalog.load_table(self.name)


def require_pyiceberg() -> None:
    """Raise InputError if PyIceberg is not installed. A run calls this function before it fuses."""
    if missing := [name for name in ("pyiceberg", "pyiceberg_core") if find_spec(name) is None]:
        raise InputError(f"CAPSFUSION_LAKE_TABLE needs {missing[0]}: pip install 'capsfusion-pipeline[lake]'")


@contextmanager
def open_lake(settings: Settings, warehouse: Warehouse) -> Iterator[Lake]:
    """Open the catalog for the Iceberg table that ``settings`` names.

    Raises InputError if ``CAPSFUSION_LAKE_TABLE`` is not set, if PyIceberg is not installed, or if PyIceberg refuses
    the configuration. Raises NotReadyError if the catalog or the files cannot be reached. Such errors in the ``with``
    block become InputError or NotReadyError, too.
    """
    if settings.lake_table is None:
        raise InputError("CAPSFUSION_LAKE_TABLE is not set: set it to an Iceberg table, such as captions.fused")
    require_pyiceberg()
    from pyiceberg.catalog import load_catalog
    from pyiceberg.utils.config import Config

    with _errors_of(settings.lake_table):
        configured = Config().get_catalog_config(CATALOG) or {}
        is_elsewhere = {"uri", "type", "py-catalog-impl"} & configured.keys()
        default = {} if is_elsewhere else _in_the_warehouse(settings, warehouse)
        catalog = load_catalog(CATALOG, **{**_s3_of_environment(), **default, **configured})
        try:
            yield Lake(catalog, settings.lake_table)
        finally:
            catalog.close()


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    from pyiceberg import exceptions
    from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

    # ``passing`` errors may be gone at the next try. ``lasting`` errors stay until a person corrects something.
    passing = (
        exceptions.CommitFailedException,
        exceptions.CommitStateUnknownException,
        exceptions.ServiceUnavailableError,
        exceptions.ServerError,
        exceptions.TooManyRequestsError,
        exceptions.ValidationException,  # PyIceberg's error if another program changed the same files
        exceptions.TableAlreadyExistsError,  # PyIceberg's error if another program created or dropped the table
        exceptions.NoSuchTableError,
        OSError,  # file errors, and errors of the connection to a REST catalog
    )
    lasting = (
        exceptions.RESTError,
        exceptions.NoSuchPropertyException,
        exceptions.NotInstalledError,
        exceptions.ValidationError,
        ValueError,
    )
    address = (InvalidSchema, InvalidURL, MissingSchema)  # the address of a REST catalog is malformed
    check = "check CAPSFUSION_LAKE_TABLE, PYICEBERG_CATALOG__CAPSFUSION__… and .pyiceberg.yaml"
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(
            f"a file of the Iceberg table {name} is missing, or this user may not read or write it: {one_line(error)};"
            " restore the file or the permission, or set CAPSFUSION_LAKE_TABLE to a new table, which will get all"
            " captions. To store new tables in another location, set PYICEBERG_CATALOG__CAPSFUSION__WAREHOUSE"
        ) from error
    except DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None)
        said = (
            f"the database of the Iceberg catalog {CATALOG!r}, or the warehouse, refuses the request:"
            f" {one_line(error.orig)}"
        )
        if code is None or may_pass(code):
            raise NotReadyError(f"{said}; try again. If the error persists, {check}") from error
        raise InputError(f"{said}; grant the missing right, or {check}") from error
    except address as error:
        raise InputError(
            f"the Iceberg catalog {CATALOG!r} has no usable address: {one_line(error)}; {check}"
        ) from error
    except passing as error:
        raise NotReadyError(
            f"the Iceberg table {name} cannot be used now: {one_line(error)}; try again. If the error persists, {check}"
        ) from error
    except lasting as error:
        raise InputError(f"the Iceberg catalog {CATALOG!r} cannot be used: {one_line(error)}; {check}") from error


def _in_the_warehouse(settings: Settings, warehouse: Warehouse) -> dict[str, str]:
    return {"type": "sql", "uri": make_catalog_schema(warehouse), "warehouse": (settings.home / "lake").as_uri()}


def _s3_of_environment() -> dict[str, str]:
    """S3 properties for PyIceberg, from AWS environment variables that PyIceberg itself does not read."""
    variables = {
        "s3.endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "s3.region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    }
    found = {key: next(filter(None, map(os.environ.get, names)), None) for key, names in variables.items()}
    return {key: value for key, value in found.items() if value}
