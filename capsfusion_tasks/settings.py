"""One typed, frozen settings object, read from ``CAPSFUSION_*`` environment variables."""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.thresholds import GateSettings, RuleSettings


def _split_patterns(value: Any) -> Any:
    """A comma-separated or JSON list as a list. Commas inside braces, as in ``{a,b}``, belong to a pattern."""
    if not isinstance(value, str):
        return value
    if re.match(r'\s*\[\s*["\]]', value):  # not of a pattern that begins with a range, as [0-9]*.parquet
        return json.loads(value)
    patterns: list[str] = []
    for part in value.split(","):
        if patterns and patterns[-1].count("{") > patterns[-1].count("}"):
            patterns[-1] += f",{part}"
        else:
            patterns.append(part)
    return [pattern.strip() for pattern in patterns if pattern.strip()]


# NoDecode: pydantic-settings would take nothing but JSON.
Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_patterns)]


class Settings(BaseSettings):
    """Everything that can be set, with its default; ``CAPSFUSION_`` + the upper-case name sets it."""

    model_config = SettingsConfigDict(
        env_prefix="CAPSFUSION_", env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
    )

    home: Path = Field(
        Path(".capsfusion"), description="State: the embedded database and, by default, the staging area."
    )
    warehouse_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the warehouse; unset: embedded PostgreSQL."
    )
    staging: str | None = Field(None, description="Folder or s3://bucket/prefix for hand-overs; unset: HOME/staging.")
    laion2b: str = Field(
        "hf://datasets/laion/relaion2B-en-research-safe",
        description="Where LAION-2B shards arrive: docs/sources.md. none: LAION-COCO's rows bring both captions.",
    )
    laion2b_include: Patterns = Field(("*.parquet",), description="Glob patterns: which files there are shards.")
    laion2b_exclude: Patterns = Field((), description="… and which of these are not.")
    laion_coco: str = Field("hf://datasets/laion/relaion-coco", description="Where LAION-COCO shards arrive.")
    laion_coco_include: Patterns = Field(("*.parquet",), description="As on the other side.")
    laion_coco_exclude: Patterns = Field((), description="As on the other side.")
    s3_requester_pays: bool = Field(False, description="Pay for reading shards from S3 buckets whose owner does not.")
    scratch: Path | None = Field(
        None, description="Folder for shards while they are fetched and split; unset: a folder of the user's in TMPDIR."
    )

    keep_units_days: float = Field(
        14, ge=0, description="`capsfusion gc` leaves the files of a unit alone for so long after it was loaded."
    )

    model: str = Field(str(BUNDLED_MODEL), description="Folder or hub id of the model; unset: the bundled demo model.")
    engine: Literal["native", "transformers"] = Field(
        "native", description="native: LLaMA models, fast; transformers: any causal model, the reference."
    )
    num_beams: int = Field(3, ge=1, le=16)
    max_new_tokens: int = Field(80, ge=1, le=1024)
    dtype: Literal["auto", "float32", "bfloat16", "float8"] = Field(
        "auto",
        description="Numbers of the model. auto: bfloat16 for GPUs, float32 for CPUs, see CAPSFUSION_DEVICE. float8:"
        " the native engine's, on newer GPUs.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="Where units are fused, which decides what the dtype auto means. auto: cpu for the bundled toy"
        " model, gpu for any other.",
    )
    nproc_per_node: Literal["auto"] | int = Field("auto", description="Ranks per node; auto: one per GPU, or one.")
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Rows that a rank fuses together; auto: what fits in the GPU's memory, 32 on a CPU."
    )
    stall_minutes: float = Field(
        15, gt=0, description="A rank that finishes no row for so long hangs: it is ended, and the task tried again."
    )
    loading_minutes: float = Field(
        60, gt=0, description="The same for its first row: before it the model is fetched and loaded."
    )
    chunk_rows: int = Field(4096, ge=1, description="Most rows of a chunk, the file that finished rows are kept in.")

    buckets: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "auto", description="Hash buckets of the staging area, fixed by the first run; auto: for the sources' size."
    )
    pair_tasks: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="Tasks that share a run's buckets; auto: for the size of what there is to join."
    )
    join_on: Literal["url_text", "url"] = Field("url_text", description="url where LAION-COCO carries no raw text.")
    unit_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Estimated tokens of a work unit, that is of one fuse task; auto: half an hour's work."
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="Of one GPU for an hour, in any currency.")
    punsafe_max: float = Field(0.5, ge=0, le=1, description="Rows at or above are dropped, as LAION advises.")
    unscored: Literal["keep", "drop"] = Field("keep", description="Rows whose punsafe or pwatermark is unknown.")
    pwatermark_max: float = Field(0.8, ge=0, le=1, description="Rows at or above are dropped, as LAION advises.")

    rules: RuleSettings = Field(RuleSettings(), description="When a caption is rejected.")
    gate: GateSettings = Field(GateSettings(), description="When a unit is not loaded.")

    @field_validator("dtype")
    @classmethod
    def _of_the_engine(cls, dtype: str, info: ValidationInfo) -> str:
        if dtype == "float8" and info.data.get("engine") == "transformers":
            raise ValueError("float8 needs the native engine")
        return dtype

    @model_validator(mode="after")
    def _absolute_folders(self) -> Settings:
        # Tasks run in working folders of their own: a relative path must mean the same in all of them.
        object.__setattr__(self, "home", self.home.expanduser().absolute())
        if Path(self.model).expanduser().is_dir():
            object.__setattr__(self, "model", str(Path(self.model).expanduser().absolute()))
        if self.scratch:
            object.__setattr__(self, "scratch", self.scratch.expanduser().absolute())
        return self

    @property
    def staging_uri(self) -> str:
        return self.staging or str(self.home / "staging")

    @property
    def self_paired(self) -> bool:
        """Whether LAION-COCO, which has URL and alt text, is paired with itself."""
        return self.laion2b == "none"

    @property
    def fusing_device(self) -> Literal["cpu", "gpu"]:
        """Where units are fused. Planning has no GPU to ask, so it is a setting."""
        if self.device != "auto":
            return self.device
        return "cpu" if self.model == str(BUNDLED_MODEL) else "gpu"

    def dtype_on(self, device: Literal["cpu", "gpu"]) -> str:
        """The dtype that is meant: never auto."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device == "cpu" else "bfloat16"

    @property
    def scratch_folder(self) -> Path:
        return self.scratch or Path(tempfile.gettempdir()) / f"capsfusion-{os.getuid()}"

    def environment(self) -> dict[str, str]:
        """These settings as the variables that ``load_settings`` reads, the warehouse's password among them; an empty
        one means the default."""
        values = self.model_dump(mode="json")
        if self.warehouse_url is not None:
            values["warehouse_url"] = self.warehouse_url.get_secret_value()
        return {
            f"CAPSFUSION_{name}".upper(): json.dumps(value)
            if isinstance(value, (list, dict))
            else ""
            if value is None
            else str(value)
            for name, value in values.items()
        }


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with ``overrides`` on top; all errors at once, as one ``InputError``."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = [
            f"CAPSFUSION_{'__'.join(str(part) for part in e['loc']).upper()}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        ]
        raise InputError("settings are not valid: " + "; ".join(problems)) from error


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]  # one without a time zone is meant as UTC


_KEY_TIME = "%Y%m%dT%H%M%SZ"


class Interval(BaseModel):
    """The data interval of a run: the shards that arrived at or after ``start`` and before ``end`` (UTC)."""

    model_config = ConfigDict(frozen=True)

    start: UtcTime
    end: UtcTime

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.start >= self.end:
            raise InputError(f"the interval is empty: it starts {self.start} and ends {self.end}; give an end after it")
        return self

    @property
    def key(self) -> str:
        """The interval as a folder name: ``20261110T000000Z_20261111T000000Z``."""
        return f"{self.start:{_KEY_TIME}}_{self.end:{_KEY_TIME}}"

    @classmethod
    def from_key(cls, key: str) -> Interval:
        start, _, end = key.partition("_")
        return cls(start=datetime.strptime(start, _KEY_TIME), end=datetime.strptime(end, _KEY_TIME))

    @property
    def command(self) -> str:
        """The command that does the interval's work; what is finished is not done twice."""
        return f"capsfusion run --start {self.start:%Y-%m-%dT%H:%M:%S} --end {self.end:%Y-%m-%dT%H:%M:%S}"

    def is_within(self, other: Interval) -> bool:
        return other.start <= self.start and self.end <= other.end
