"""Opens the sources that the settings name, and their shards (files with captions or image results).

The side of a shard says what the shard contains: ``laion_2b`` (raw captions), ``laion_coco`` (synthetic captions) or
``image_results`` (img2dataset's results). Each side has its own source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa

from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.setting_types import Patterns
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards.default_source import DefaultSource
from capsfusion_tasks.shards.failures import system_errors
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.patterns import path_filter
from capsfusion_tasks.shards.shard_list import Origin
from capsfusion_tasks.shards.source import Source
from capsfusion_tasks.staging.addresses import refuse_credentials

_LFS_POINTER, _LONGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024


@dataclass(frozen=True)
class SideSource:
    """The source of a side's shards, and the filter that tells which files of the source are shards.

    ``wanted`` returns whether the file with the given path is a shard. It applies the path patterns in ``patterns``.
    """

    source: Source
    wanted: Callable[[str], bool]
    patterns: dict[str, Patterns] = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        return Origin(uri=self.source.uri, **self.patterns)


def open_source(uri: str, settings: Settings) -> Source:
    """The source at ``uri``. Raises InputError for an unknown kind of URI."""
    refuse_credentials(uri)  # credentials in the URI would be stored with each shard
    scheme, separator, path = uri.partition("://")
    # The modules for S3 and the hub are imported only where they are used. They import boto3 and huggingface_hub, which
    # take longer to load than all other modules of the command line.
    if (uri and not separator) or scheme == "file":
        return LocalSource(path if separator else uri)
    if scheme == "s3":
        from capsfusion_tasks.shards.s3 import S3Source

        return S3Source(uri, requester_pays=settings.s3_requester_pays)
    if scheme == "hf":
        from capsfusion_tasks.shards.huggingface import HubSource

        return HubSource(uri, settings.scratch_folder)
    if scheme in ("http", "https"):
        from capsfusion_tasks.shards.http import HttpSource

        return HttpSource(uri, settings.scratch_folder)
    raise InputError(
        f"cannot read shards from {uri or 'an empty address'}: give a folder, s3://bucket/prefix, "
        "hf://datasets/owner/name, or the https:// address of a list of files"
    )


def source_of(shard: Shard, settings: Settings) -> Source:
    """Open the source in which the shard was found.

    If the settings name the same source, use the address in the settings, because it may contain a signature that the
    server requires. The address that is stored with the shard never contains a signature.
    """
    configured = {
        "laion_2b": settings.laion2b,
        "laion_coco": settings.laion_coco,
        "image_results": settings.image_results or shard.source,
    }
    current = open_source(configured[shard.side], settings)
    return current if current.uri == shard.source else open_source(shard.source, settings)


@contextmanager
def opened(shard: Shard, settings: Settings, source: Source | None = None) -> Iterator[pa.NativeFile]:
    """The shard's bytes as a seekable file, for every kind of source.

    ``source``: the source that listed the shard. Callers that open many shards pass it, to reuse the connections.

    Raises InputError if the shard cannot be read, is gone or has changed. Raises NotReadyError if the source does not
    answer.
    """
    if shard.problem:
        raise InputError(shard.problem)
    where = printable(f"{shard.source}/{shard.path}")
    with ExitStack() as stack:
        with system_errors(f"cannot read {where}"):
            stream = stack.enter_context((source or source_of(shard, settings)).open(shard))
            if shard.size_bytes < _LONGEST_POINTER and stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(
                    f"{where} is a Git LFS pointer, not the file: run `git lfs pull` in its repository. The file then"
                    " counts as a new shard"
                )
            stream.seek(0)
        yield stream


def configured_sources(settings: Settings) -> dict[Side, SideSource]:
    """The sources of the captions, by side. LAION-COCO is the only one if its rows provide both captions."""
    coco = Origin(uri=settings.laion_coco, include=settings.laion_coco_include, exclude=settings.laion_coco_exclude)
    coco_source = _configured(coco, settings, "laion_coco")
    if settings.self_paired:
        return {"laion_coco": coco_source}
    raw = Origin(uri=settings.laion2b, include=settings.laion2b_include, exclude=settings.laion2b_exclude)
    return {"laion_2b": _configured(raw, settings, "laion2b"), "laion_coco": coco_source}


def image_results_source(settings: Settings) -> SideSource | None:
    """The source of img2dataset's results. None if planning does not use them to leave out pairs without an image."""
    if settings.image_results is None or not settings.skips_gone_images:
        return None
    patterns = {"include": settings.image_results_include, "exclude": settings.image_results_exclude}
    return side_source(Origin(uri=settings.image_results, **patterns), settings)


def _configured(origin: Origin, settings: Settings, setting: str) -> SideSource:
    place = side_source(origin, settings)
    if setting in settings.model_fields_set:
        return place
    return replace(place, source=DefaultSource(place.source, f"CAPSFUSION_{setting.upper()}"))


def side_source(origin: Origin, settings: Settings) -> SideSource:
    patterns = {"include": origin.include, "exclude": origin.exclude}
    return SideSource(open_source(origin.uri, settings), path_filter(origin.include, origin.exclude), patterns)
