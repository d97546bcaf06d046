"""The settings that decide which rows the pull and pair stages use. Files that depend on these settings record them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self

from capsfusion_tasks.settings import Settings

# Increase this number when a change of pairing/columns.py makes it read different rows or columns from the same file.
COLUMNS_VERSION = 3
_KEY = "capsfusion.pull_rules"  # key in the footers of bucket files, pair files and unit files


@dataclass(frozen=True)
class PullRules:
    """The settings that bucket files, the output of the pull stage, depend on.

    Older versions did not record these settings. If a file has no record, the pipeline assumes that the file was made
    with the current settings, and records these settings.
    """

    punsafe_max: float
    pwatermark_max: float
    unscored: str
    join_on: str
    columns: int = COLUMNS_VERSION

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            punsafe_max=settings.punsafe_max,
            pwatermark_max=settings.pwatermark_max,
            unscored=settings.unscored,
            # If both captions of a pair come from one LAION-COCO row, rows without a raw text are dropped, as they are
            # with url_text.
            join_on="url_text" if settings.self_paired else settings.join_on,
        )

    @classmethod
    def recorded(cls, footer: Mapping[str, str]) -> Self | None:
        """The rules in a Parquet footer. None: an older version wrote the file."""
        return cls(**json.loads(footer[_KEY])) if _KEY in footer else None

    def as_footer(self) -> dict[str, str]:
        return {_KEY: json.dumps(asdict(self), sort_keys=True)}

    def variables(self, other: PullRules) -> str:
        """The environment variables whose values differ from those of ``other``, with the values of ``self``.

        For example: ``CAPSFUSION_PUNSAFE_MAX=0.5``.
        """
        mine, theirs = asdict(self), asdict(other)
        return " ".join(
            f"CAPSFUSION_{name.upper()}={value}"
            for name, value in mine.items()
            if value != theirs[name] and name != "columns"
        )

    def against(self, now: PullRules) -> str:
        """Text with the settings that differ from ``now``, the current rules.

        For example: ``CAPSFUSION_PUNSAFE_MAX=0.5, now CAPSFUSION_PUNSAFE_MAX=0.1``.
        """
        if self.columns != now.columns:
            return f"version {self.columns} of the column rules, now version {now.columns}"
        return f"{self.variables(now)}, now {now.variables(self)}"


@dataclass(frozen=True)
class PairRules(PullRules):
    """The settings that pairs depend on: the pull rules, and the maximum number of pairs per URL."""

    # Older versions had no limit and did not record this field. Their pairs get this default.
    url_pairs_max: int | Literal["none"] = "none"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        pulled = PullRules.of(settings)
        # A join on URL and text makes at most as many pairs as LAION-COCO has rows, so it needs no limit.
        most = settings.url_pairs_max if pulled.join_on == "url" else "none"
        return cls(**asdict(pulled), url_pairs_max=most)

    def variables(self, other: PullRules) -> str:
        if isinstance(other, PairRules) and self.join_on != other.join_on:
            # Report no change of url_pairs_max, because it has an effect only if rows are joined on the URL alone.
            other = replace(other, url_pairs_max=self.url_pairs_max)
        return super().variables(other)


@dataclass(frozen=True)
class UnitRules(PairRules):
    """The settings that units depend on: the pair rules, and what planning does if an image is gone."""

    gone_images: Literal["skip", "keep"] = "keep"  # units of older versions lack this field and get this default

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(**asdict(PairRules.of(settings)), gone_images="skip" if settings.skips_gone_images else "keep")
