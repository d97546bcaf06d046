"""Writes the card (README.md) of an exported data set: columns, models, numbers of rejected captions, licences."""

from __future__ import annotations

import hashlib
import re

from capsfusion_tasks.warehouse.export_selection import Outcome, Selection, Snapshot
from capsfusion_tasks.warehouse.provenance import Origin

# A line of each card. {} is a digest of the rest of the card. If the digest does not match, a person changed the card.
_MARK = "<!-- written by capsfusion export, {} -->"
_MARKED = re.compile(_MARK.format("([0-9a-f]{16})"))

_COLUMNS = {
    "image_url": "address of the image",
    "laion_2b": "raw caption: the image's alt text on the web, unchanged",
    "laion_coco": "synthetic caption: made from the image alone by a captioning model",
    "capsfusion": "fused caption: made from both captions by a language model",
    "license": "licence that LAION found for the image; null: none was found",
    "laion_2b_source": "data set release that has the raw caption",
    "laion_coco_source": "data set release that has the synthetic caption",
    "capsfusion_model": "model that fused the caption",
}
_MOST_ORIGINS = 20  # maximum number of rows in the table "Where the pairs come from"


def dataset_card(
    *, files: str, rows: dict[str, int], columns: list[tuple[str, str]], selection: Selection, snapshot: Snapshot,
    outcome: Outcome, origins: list[Origin],
) -> str:  # fmt: skip
    """The card in Markdown, with the hub's YAML header.

    Args:
        files: pattern of the Parquet files, relative to the card.
        rows: fusion_id → number of captions with this fusion_id.
        columns: name and Arrow type of each column, in the order of the files' columns.
        origins: combinations of the captions' releases and licences, the most frequent first.
    """
    header = ["---", "task_categories:", "- image-to-text", "tags:", "- image-captions", "- capsfusion", "configs:"]
    header += ["- config_name: default", "  data_files:", "  - split: train", f"    path: {files}", "---"]
    total = sum(rows.values())
    judged = outcome.accepted + outcome.rejected
    text = [
        *header,
        _MARK.format(""),
        "# Fused image captions",
        "",
        f"{total:,} captions of web images. Each was fused from the image's alt text and a synthetic caption of the"
        " same image, and passed validation. Rows are sorted by a digest of the pair, so each file is a random sample.",
        "",
        "## What made the captions",
        "",
        "| fusion_id | captions | model | revision | engine | dtype | beams | caption limit (tokens) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_fusion_row(fusion_id, count, snapshot) for fusion_id, count in rows.items()),
        "",
        "## Where the pairs come from",
        "",
        "Licences are those that LAION found for the images.",
        "",
        "| raw captions | synthetic captions | licence | captions |",
        "| --- | --- | --- | --- |",
        *(_origin_row(origin) for origin in origins[:_MOST_ORIGINS]),
        *_rest(origins[_MOST_ORIGINS:]),
        "",
        "## What was left out",
        "",
        f"Of {judged:,} captions, validation accepted {outcome.accepted:,} ({_share(outcome.accepted, judged)}) and"
        f" rejected {outcome.rejected:,}." + (" A caption can have several reasons:" if outcome.reasons else ""),
        "",
    ]
    if outcome.reasons:
        text += ["| reason | captions |", "| --- | --- |"]
        text += [f"| {reason} | {count:,} |" for reason, count in outcome.reasons.items()] + [""]
    if conditions := _conditions(selection):
        text += ["This data set contains only the accepted captions of this selection:", ""]
        text += [*(f"- {line}" for line in conditions), ""]
    text += ["## Columns", "", "| column | type | |", "| --- | --- | --- |"]
    # Types are in backticks, because Markdown would read the <string> of list<string> as HTML.
    text += [f"| `{name}` | `{kind}` | {_COLUMNS.get(name, '')} |" for name, kind in columns]
    card = "\n".join([*text, "", *_LICENCES, ""])
    return card.replace(_MARK.format(""), _MARK.format(_digest(card)), 1)


def is_generated(card: str) -> bool:
    """Whether ``dataset_card`` made the ``card`` and nobody has changed the text since."""
    found = _MARKED.search(card)
    return found is not None and _digest(card.replace(found[0], _MARK.format(""), 1)) == found[1]


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]


_LICENCES = (
    "## Licences",
    "",
    "Images and alt texts belong to their owners; this data set has no images. LAION publishes addresses, alt texts",
    "and synthetic captions under CC BY 4.0. The fused captions were made by the models above, whose licences apply to",
    "what they write; for CapsFus-LLaMA that is the licence of LLaMA 2. Choose a licence for this data set that these",
    "licences allow.",
)


def _fusion_row(fusion_id: str, count: int, snapshot: Snapshot) -> str:
    made = snapshot.fusions[fusion_id]
    names = ("model", "model_revision", "engine", "dtype", "num_beams", "max_new_tokens")
    return _row(fusion_id, f"{count:,}", *(str(made[name]) for name in names))


def _origin_row(origin: Origin) -> str:
    return _row(origin.laion_2b, origin.laion_coco, origin.license or "none found", f"{origin.captions:,}")


def _rest(origins: list[Origin]) -> list[str]:
    """A table row with the sum of the remaining origins. [] if no origin remains."""
    if not origins:
        return []
    return [_row("others", "", f"{len(origins)} more combinations", f"{sum(origin.captions for origin in origins):,}")]


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _conditions(selection: Selection) -> list[str]:
    found = {
        "captions with fusion_id": selection.fusion_id,
        "shards that arrived from": selection.interval and f"{selection.interval.start} to {selection.interval.end}",
        "captions loaded at or after": selection.loaded_from,
        "captions loaded before": selection.loaded_before,
        "captions for which": selection.where and f"`{selection.where}`",
        "at most": selection.limit and f"{selection.limit:,} captions",
    }
    return [f"{name} {value}" for name, value in found.items() if value is not None]
