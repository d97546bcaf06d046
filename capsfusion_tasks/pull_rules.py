"""The settings that decide which rows of a shard are pulled, and which rows meet: kept with what is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from capsfusion_tasks.settings import Settings

COLUMNS_VERSION = 2  # raise it when pairing/columns.py makes other rows of the same file
_KEY = "capsfusion.pull_rules"  # in the footer of bucket files, pairs and units


@dataclass(frozen=True)
class PullRules:
    """Bucket files, pairs and units are valid under the rules that they were made with, and under no others.

    What an older version made has no rules with it. It counts as made with those of now, which are then recorded.
    """

    punsafe_max: float
    pwatermark_max: float
    unscored: str
    join_on: str
    columns: int = COLUMNS_VERSION

    @classmethod
    def of(cls, settings: Settings) -> PullRules:
        return cls(
            punsafe_max=settings.punsafe_max,
            pwatermark_max=settings.pwatermark_max,
            unscored=settings.unscored,
            # LAION-COCO paired with itself needs the raw text of its rows, whatever is set.
            join_on="url_text" if settings.self_paired else settings.join_on,
        )

    @classmethod
    def recorded(cls, footer: Mapping[str, str]) -> PullRules | None:
        """The rules in a Parquet footer; None: an older version wrote the file."""
        return cls(**json.loads(footer[_KEY])) if _KEY in footer else None

    def as_footer(self) -> dict[str, str]:
        return {_KEY: json.dumps(asdict(self), sort_keys=True)}

    def variables(self, other: PullRules) -> str:
        """The variables that set these rules, where they differ from ``other``: ``CAPSFUSION_PUNSAFE_MAX=0.5``."""
        mine, theirs = asdict(self), asdict(other)
        return " ".join(
            f"CAPSFUSION_{name.upper()}={value}"
            for name, value in mine.items()
            if value != theirs[name] and name != "columns"
        )

    def against(self, now: PullRules) -> str:
        """What differs, for messages: ``CAPSFUSION_PUNSAFE_MAX=0.5, now CAPSFUSION_PUNSAFE_MAX=0.1``."""
        if self.columns != now.columns:
            return f"version {self.columns} of the column rules, now version {now.columns}"
        return f"{self.variables(now)}, now {now.variables(self)}"
