"""A job for torchrun's ranks (processes): pairs to fuse, decoding settings, and the folder for the fused captions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.fusion.identity import locate
from capsfusion_tasks.settings import Settings

_CLAIM_ROWS = 64


class FuseJob(BaseModel):
    """A job for torchrun's ranks. Each rank gets it as JSON in its arguments."""

    model_config = ConfigDict(frozen=True)

    staging: str  # root of the storage; the paths in the next fields are relative to this root
    pairs: str  # a Parquet file with the columns laion_2b and laion_coco; with piece_rows, a folder of such files
    # Number of rows of each file in the folder ``pairs``. The last file may have fewer. None: ``pairs`` is one file.
    piece_rows: int | None
    chunks: str  # folder of the chunk files
    decoding: Decoding
    model: str  # a folder on this machine, or a hub id with a commit
    batch_size: int | None  # rows that the engine works on at once; None: the engine decides
    # Number of rows that a rank claims at a time. ``piece_rows`` is a multiple of this number.
    claim_rows: int
    chunk_rows: int  # maximum number of rows of a chunk file
    # Time between two writes of finished rows. A killed rank loses the rows that it finished after the last write.
    write_seconds: float = 5.0

    @classmethod
    def of(
        cls,
        settings: Settings,
        decoding: Decoding,
        *,
        staging: str,
        pairs: str,
        chunks: str,
        piece_rows: int | None = None,
    ) -> FuseJob:
        """A job for ranks on this machine. Raises InputError if this machine lacks the model of ``decoding``."""
        return cls(
            staging=staging,
            pairs=pairs,
            piece_rows=piece_rows,
            chunks=chunks,
            decoding=decoding,
            model=locate(decoding, settings),
            batch_size=None if settings.batch_size == "auto" else settings.batch_size,
            claim_rows=claim_rows(settings),
            chunk_rows=settings.chunk_rows,
        )

    @property
    def fusion_id(self) -> str:
        return self.decoding.fusion_id


def claim_rows(settings: Settings) -> int:
    """Number of rows that a rank claims at a time. Claims are small, so that all ranks end at about the same time."""
    return min(_CLAIM_ROWS, settings.chunk_rows)
