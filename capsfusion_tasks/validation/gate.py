"""The gate between validation and the warehouse. It stops units with so many rejections that something must be wrong.

With a wrong model, a broken prompt or a new kind of source, the rules reject many captions of a unit. Loading the
accepted captions of such a unit would fill the table with captions that passed the rules by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from capsfusion_tasks.thresholds import GateSettings
from capsfusion_tasks.validation.tally import Tally

UNITS_MIN = 3  # with fewer recent units, we cannot know how much the shares of rejected rows usually differ
# Ignore smaller increases of the share of rejected rows: in large units, even tiny ones are statistically significant.
DIFFERENCE_MIN = 0.03


@dataclass(frozen=True)
class Verdicts:
    """The numbers of accepted and rejected rows of a loaded unit."""

    accepted: int
    rejected: int

    @property
    def rows(self) -> int:
        return self.accepted + self.rejected


def why_closed(tally: Tally, recent: Sequence[Verdicts], settings: GateSettings) -> str | None:
    """Why a unit must not be loaded. None if it may be loaded.

    ``tally``: the counts of this unit. ``recent``: the last loaded units with the same ``fusion_id``.

    Units of fewer than 100 rows always pass. There are two limits for the share of rejected rows: 25%, and six standard
    errors more than in ``recent``. The second limit applies only if ``recent`` has at least three units of 100 rows or
    more, and only if the share is more than 0.03 higher than in ``recent``.

    The limits are calibrated on CapsFusion's 5,000 published captions. The rules reject 11.3% of all these captions,
    and 9.4% to 13.2% of a part of 500. So the limit of 25% is about twice the share of a good model. In 20 shuffles of
    the captions, a part of 100 to 500 rows differed from the other parts by at most 3.2 standard errors, and the limit
    of six is about twice that. If the share of recent units is 11.3%, a unit of 2,000 rows reaches the limit of six
    standard errors with a share of 15.8%.
    """
    if tally.rows < settings.min_rows:
        return None
    if tally.share > settings.rejected_max:
        return f"that is more than {settings.rejected_max:.0%} (CAPSFUSION_GATE__REJECTED_MAX)"
    usual = [unit for unit in recent if unit.rows >= settings.min_rows]
    if len(usual) < UNITS_MIN:
        return None
    share, errors = drift(tally, usual)
    if errors > settings.drift_max and tally.share - share > DIFFERENCE_MIN:
        return (
            f"that is {errors:.1f} standard errors more than the {share:.1%} of the last {len(usual)} units with the"
            f" same model and settings (CAPSFUSION_GATE__DRIFT_MAX is {settings.drift_max:g})"
        )
    return None


def drift(tally: Tally, recent: Sequence[Verdicts]) -> tuple[float, float]:
    """Compare the share of rejected rows in ``tally`` with the share in ``recent`` units.

    Returns the share in the recent units, and the difference in standard errors. The difference is positive if the
    share in ``tally`` is larger.

    The test is a z-test of two proportions. Its variance is the binomial variance times the dispersion of the recent
    units. The dispersion is Pearson's chi-squared divided by its degrees of freedom, and at least 1 (McCullagh and
    Nelder, 1989, 4.5). It accounts for differences between units: a shard of book covers has other faults than a shard
    of recipes.
    """
    rows = sum(unit.rows for unit in recent)
    # Add half a rejection and half an acceptance. Otherwise the variance would be 0 if recent units had no rejection.
    share = (sum(unit.rejected for unit in recent) + 0.5) / (rows + 1)
    variance = share * (1 - share)
    chi_squared = sum((unit.rejected - unit.rows * share) ** 2 / (unit.rows * variance) for unit in recent)
    dispersion = max(1.0, chi_squared / (len(recent) - 1))
    error = math.sqrt(dispersion * variance * (1 / tally.rows + 1 / rows))
    return share, (tally.share - share) / error
