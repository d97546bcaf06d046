"""One typed, frozen settings object, read from ``CAPSFUSION_*`` environment variables."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from capsfusion_tasks import BUNDLED_MODEL, variables
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.setting_types import Folder, Location, ModelLocation, Patterns, RawLocation, Secret, TableName
from capsfusion_tasks.thresholds import GateSettings, RuleSettings


class Settings(BaseSettings):
    """All settings with their defaults.

    Each setting has the environment variable ``CAPSFUSION_`` + its name in upper case.
    """

    model_config = SettingsConfigDict(
        env_prefix="CAPSFUSION_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    home: Folder = Field(
        Path(".capsfusion"),
        description="Folder of the embedded database and, by default, of the staging area (files that stages"
        " exchange).",
    )
    warehouse_url: Secret | None = Field(
        None,
        description="The warehouse: `postgresql://user:password@host:5432/database`. Run `capsfusion db upgrade` once"
        " before the first use. Default: an embedded PostgreSQL in `CAPSFUSION_HOME`.",
    )
    staging: Location | None = Field(
        None,
        description="Folder or `s3://bucket/prefix` for the files that stages exchange. All workers must reach it."
        " Default: `staging` in `CAPSFUSION_HOME`.",
    )
    scratch: Folder | None = Field(
        None,
        description="Folder for shards while they are downloaded and split. Each running `pull` task needs twice the"
        " size of its shard. Default: `capsfusion-<user id>` in the system's temporary folder.",
    )
    lake_table: TableName | None = Field(
        None,
        description="Also write each loaded work unit (the captions of one fuse task) to this Iceberg table:"
        " `namespace.table` in PyIceberg's catalog `capsfusion` ([sinks.md](sinks.md)). Default: no table.",
    )
    lake_keep_days: float = Field(
        7,
        ge=0,
        le=36500,
        description="`capsfusion lake maintain` and the DAG `capsfusion_lake` remove snapshots of the Iceberg table"
        " that are older than this many days ([sinks.md](sinks.md)).",
    )
    keep_units_days: float = Field(
        14,
        ge=0,
        le=36500,
        description="`capsfusion gc` keeps the files of a loaded work unit for at least this many days.",
    )

    laion2b: RawLocation = Field(
        "hf://datasets/laion/relaion2B-en-research-safe",
        description="Where LAION-2B shards (Parquet files) arrive: a folder, `s3://…`, `hf://datasets/…`, or the"
        " `https://…` address of a list of files ([sources.md](sources.md)). `none`: take both captions from"
        " LAION-COCO's rows.",
    )
    laion2b_include: Patterns = Field(
        ("*.parquet",), description="Comma-separated glob patterns of the shards in the LAION-2B source."
    )
    laion2b_exclude: Patterns = Field(
        (),
        description="Comma-separated glob patterns of files to leave out, even if `CAPSFUSION_LAION2B_INCLUDE` matches"
        " them.",
    )
    laion_coco: Location = Field(
        "hf://datasets/laion/relaion-coco",
        description="Where LAION-COCO shards arrive. Accepts the same kinds of addresses as `CAPSFUSION_LAION2B`.",
    )
    laion_coco_include: Patterns = Field(
        ("*.parquet",), description="Like `CAPSFUSION_LAION2B_INCLUDE`, for the LAION-COCO source."
    )
    laion_coco_exclude: Patterns = Field(
        (), description="Like `CAPSFUSION_LAION2B_EXCLUDE`, for the LAION-COCO source."
    )
    image_results: Location | None = Field(
        None,
        description="Where img2dataset's results arrive: Parquet files with the columns `url` and `status`, which show"
        " whether an image is gone ([sources.md](sources.md)). Accepts the same kinds of addresses as"
        " `CAPSFUSION_LAION2B`. Default: none.",
    )
    image_results_include: Patterns = Field(
        ("*.parquet",), description="Like `CAPSFUSION_LAION2B_INCLUDE`, for the image results."
    )
    image_results_exclude: Patterns = Field((), description="Like `CAPSFUSION_LAION2B_EXCLUDE`, for the image results.")
    gone_images: Literal["auto", "skip", "keep"] = Field(
        "auto",
        description="What to do with pairs whose image is known to be gone: `skip` or `keep` them. `auto`: `skip` if"
        " `CAPSFUSION_IMAGE_RESULTS` is set, otherwise `keep`.",
    )
    s3_requester_pays: bool = Field(
        False, description="Read from requester-pays S3 buckets. Your AWS account pays for the requests."
    )

    buckets: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "auto",
        description="Number of hash buckets. The rows of shards are split into these buckets by URL. The number cannot"
        " change after the first run. `auto`: 16 to 2,048, depending on the size of the sources.",
    )
    pair_tasks: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="Number of tasks that join the buckets. `auto`: one per 4 GiB of pulled shards."
    )
    join_on: Literal["url_text", "url"] = Field(
        "url_text",
        description="Columns on which LAION-2B and LAION-COCO are joined. `url_text`: URL and raw caption. `url`: only"
        " the URL, for a LAION-COCO release without the raw caption.",
    )
    url_pairs_max: Literal["none"] | Annotated[int, Field(ge=1)] = Field(
        100,
        description="Maximum number of pairs per URL, if `CAPSFUSION_JOIN_ON` is `url`. A URL that would have more"
        " pairs gets no new pairs; pairs of earlier runs stay. Such a URL usually belongs to a placeholder image, and"
        " its pairs multiply: 900 rows on each side would make 810,000 pairs. Reports count the pairs that are left"
        " out. `none`: no limit.",
    )
    pair_memory: Literal["auto"] | Annotated[int, Field(ge=96)] = Field(
        "auto",
        description="Memory in MB that a `pair` task gives to DuckDB, which joins three buckets at a time. Data that"
        " does not fit is written to `CAPSFUSION_SCRATCH`. `auto`: a quarter of the memory of the machine or container,"
        " at most 6 GB.",
    )
    punsafe_max: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Drop rows whose `punsafe` (probability that the image is unsafe) is at least this value, as LAION"
        " advises. After a change, shards are [pulled again](state.md).",
    )
    pwatermark_max: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Drop rows whose `pwatermark` (probability that the image has a watermark) is at least this value,"
        " as LAION advises.",
    )
    unscored: Literal["keep", "drop"] = Field(
        "keep", description="What to do with rows whose `punsafe` or `pwatermark` is unknown."
    )
    unit_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Size of a work unit, in estimated tokens. One fuse task fuses one unit. `auto`: as many tokens as"
        " a GPU fuses in half an hour at the measured rate; 400,000 if no rate has been measured yet.",
    )
    gpu_hour_price: float | None = Field(
        None, ge=0, description="Price of one GPU for one hour, in any currency. Used for estimates and for budgets."
    )

    model: ModelLocation = Field(
        str(BUNDLED_MODEL),
        description="The model: a folder, or a Hugging Face hub id such as `BAAI/CapsFus-LLaMA`; `owner/name@revision`"
        " pins a revision. Default: the demo model, a toy.",
    )
    prompt: Folder | None = Field(
        None,
        description="File with the prompt's template, which has the fields `{raw}` and `{synthetic}`"
        " ([models.md](models.md)). The file is read when units are planned. Default: the paper's prompt.",
    )
    engine: Literal["native", "transformers"] = Field(
        "native",
        description="`native`: fast, for LLaMA, Mistral and Qwen ([models.md](models.md)). `transformers`: the"
        " reference implementation, for any causal language model.",
    )
    num_beams: int = Field(3, ge=1, le=16, description="Number of beams of the beam search. 1: greedy decoding.")
    max_new_tokens: int = Field(80, ge=1, le=1024, description="Maximum length of a caption, in tokens.")
    keep_beams: bool = Field(
        False,
        description="Keep all captions that the beam search finishes. Validation takes the best one that passes"
        " ([validation.md](validation.md)). Changes the `fusion_id` (id of model and settings) of new captions.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float8"] = Field(
        "auto",
        description="Number format of the model. `auto`: `bfloat16` on a GPU, `float32` on a CPU"
        " (see `CAPSFUSION_DEVICE`). `float8`: only for the native engine, on GPUs that support it.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="Device on which fuse tasks run the model. It determines what `CAPSFUSION_DTYPE=auto` means."
        " `auto`: `cpu` for the demo model, `gpu` for any other.",
    )
    nproc_per_node: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="Number of processes of torchrun on a node. `auto`: one per GPU, or one on the CPU."
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Batch size of each process, in rows. `auto`: as many as fit in the GPU's memory; 32 on a CPU.",
    )
    chunk_rows: int = Field(
        4096,
        ge=1,
        description="Maximum number of rows in a chunk file. Chunk files contain the finished captions of a unit. A new"
        " file also begins after 30 seconds.",
    )
    stall_minutes: float = Field(
        15,
        gt=0,
        description="End a fuse task if one of its processes finishes no row for this many minutes. A retry keeps the"
        " finished rows.",
    )
    loading_minutes: float = Field(
        60,
        gt=0,
        description="Like `CAPSFUSION_STALL_MINUTES`, for the first row of a process. Before this row, the process"
        " downloads and loads the model.",
    )

    rules: RuleSettings = Field(RuleSettings(), description="Thresholds that decide whether a caption is rejected.")
    gate: GateSettings = Field(
        GateSettings(), description="Thresholds that decide whether a fused unit is loaded into the warehouse."
    )

    @field_validator("dtype")
    @classmethod
    def _of_the_engine(cls, dtype: str, info: ValidationInfo) -> str:
        if dtype == "float8" and info.data.get("engine") == "transformers":
            raise ValueError("float8 needs the native engine: set engine to native, or choose another dtype")
        return dtype

    @field_validator("keep_beams")
    @classmethod
    def _has_other_beams(cls, keep_beams: bool, info: ValidationInfo) -> bool:
        if keep_beams and info.data.get("num_beams") == 1:
            raise ValueError(
                "keep_beams keeps the captions of other beams, but num_beams is 1: set num_beams to 2 or more"
            )
        return keep_beams

    @field_validator("image_results", mode="before")
    @classmethod
    def _none(cls, uri: Any) -> Any:
        return None if uri == "none" else uri

    @property
    def staging_uri(self) -> str:
        return self.staging or str(self.home / "staging")

    @property
    def self_paired(self) -> bool:
        """Whether both captions of a pair come from one LAION-COCO row."""
        return self.laion2b == "none"

    @property
    def skips_gone_images(self) -> bool:
        return self.gone_images == "skip" or (self.gone_images == "auto" and self.image_results is not None)

    @property
    def fusing_device(self) -> Literal["cpu", "gpu"]:
        """The device that fuses units. Settings decide this, because the machine that plans units may have no GPU."""
        if self.device != "auto":
            return self.device
        return "cpu" if self.model == str(BUNDLED_MODEL) else "gpu"

    def dtype_on(self, device: Literal["cpu", "gpu"]) -> str:
        """The dtype to use, with ``auto`` resolved."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device == "cpu" else "bfloat16"

    @property
    def scratch_folder(self) -> Path:
        return self.scratch or Path(tempfile.gettempdir()) / f"capsfusion-{os.getuid()}"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables for ``load_settings``, including the warehouse's password.

        An empty value stands for the default.
        """
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
    """Settings from the environment. Values in ``overrides`` that are not None take precedence.

    Raises one InputError with all problems, including variables whose names look like misspelt settings.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    problems = variables.misspelt(os.environ, Settings, variables.OTHER_VARIABLES)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems += variables.problems(error, Settings, given.keys())
    except SettingsError as error:  # the variable of a group of settings does not contain JSON
        names = [name for name in variables.nested(Settings) if f'"{name}"' in str(error)]
        variable = variables.variable(*names[:1])
        problems.append(f"{variable} is not JSON: set its parts one by one ({variable}__…, docs/settings.md)")
    if problems:
        raise InputError("settings are not valid: " + "; ".join(problems))
    return settings
