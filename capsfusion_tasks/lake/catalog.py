"""Opens the Iceberg catalog and the table of captions that ``CAPSFUSION_LAKE_TABLE`` names.

The catalog is ``capsfusion`` in PyIceberg's own configuration: ``.pyiceberg.yaml``, or the environment variables
``PYICEBERG_CATALOG__CAPSFUSION__…``. Without one, its tables lie in the warehouse and its files in ``CAPSFUSION_HOME``.
"""

from __future__ import annotations

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

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

CATALOG = "capsfusion"


@dataclass(frozen=True)
class Lake:
    """A table of an Iceberg catalog. ``name``: namespace and table, with a dot between."""

    catalog: Catalog
    name: str

    def table(self) -> Table | None:
        """The table; None if it does not exist."""
        return self.catalog.load_table(self.name) if self.catalog.table_exists(self.name) else None

    def create(self, columns: pa.Schema) -> Table:
        """Create the table with ``columns``, partitioned by fusion and day of loading."""
        from pyiceberg.transforms import DayTransform

        self.catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
        with (
            self.catalog.create_table_transaction(self.name, schema=columns) as transaction,
            transaction.update_spec() as partitions,
        ):
            partitions.add_identity("fusion_id")
            partitions.add_field("loaded_at", DayTransform(), "loaded_day")
        return self.catalog.load_table(self.name)


def require_pyiceberg() -> None:
    """Raise InputError if PyIceberg is not installed: a run finds that before it fuses."""
    if missing := [name for name in ("pyiceberg", "pyiceberg_core") if find_spec(name) is None]:
        raise InputError(f"CAPSFUSION_LAKE_TABLE needs {missing[0]}: pip install 'capsfusion-pipeline[lake]'")


@contextmanager
def open_lake(settings: Settings, warehouse: Warehouse) -> Iterator[Lake]:
    """The lake of ``settings``.

    Raises InputError without ``CAPSFUSION_LAKE_TABLE``, without PyIceberg, and for a configuration that PyIceberg
    refuses; NotReadyError where the catalog or the files cannot be reached, also in the block.
    """
    if settings.lake_table is None:
        raise InputError("CAPSFUSION_LAKE_TABLE is not set: name an Iceberg table in it, as in captions.fused")
    require_pyiceberg()
    from pyiceberg import exceptions
    from pyiceberg.catalog import load_catalog
    from pyiceberg.utils.config import Config

    passing = (
        exceptions.CommitFailedException,
        exceptions.CommitStateUnknownException,
        exceptions.ServiceUnavailableError,
        exceptions.ServerError,
        DBAPIError,
        OSError,  # of the files, and of a REST catalog's connection
    )
    try:
        configured = Config().get_catalog_config(CATALOG) or {}
        default = (
            {} if {"uri", "type", "py-catalog-impl"} & configured.keys() else _in_the_warehouse(settings, warehouse)
        )
        catalog = load_catalog(CATALOG, **{**default, **configured})
        try:
            yield Lake(catalog, settings.lake_table)
        finally:
            catalog.close()
    except passing as error:
        raise NotReadyError(
            f"the Iceberg table {settings.lake_table} cannot be used now: {error}; try again"
        ) from error
    except (
        exceptions.RESTError,
        exceptions.NoSuchPropertyException,
        exceptions.NotInstalledError,
        ValueError,
    ) as error:
        raise InputError(
            f"the Iceberg catalog {CATALOG!r} refuses: {error}; check PYICEBERG_CATALOG__CAPSFUSION__…, .pyiceberg.yaml"
        ) from error


def _in_the_warehouse(settings: Settings, warehouse: Warehouse) -> dict[str, str]:
    return {"type": "sql", "uri": make_catalog_schema(warehouse), "warehouse": (settings.home / "lake").as_uri()}
