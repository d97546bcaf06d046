"""Computes the id of a pair, and the key that LAION itself uses to join its data sets."""

from __future__ import annotations

import hashlib

import mmh3
import pyarrow as pa
import pyarrow.compute as pc


def pair_ids(urls: pa.Array, raw: pa.Array, synthetic: pa.Array) -> pa.Array:
    """The ids of pairs, [rows] binary(16). An id is a digest of the pair's URL, raw caption and synthetic caption.

    The digest includes the lengths of URL and raw caption. Otherwise "a b" + "c" and "a" + "b c" would get equal ids.
    """
    lengths = [pc.binary_length(texts).cast(pa.string()) for texts in (urls, raw)]
    said = pc.binary_join_element_wise(*lengths, urls, raw, synthetic, " ")
    digests = (hashlib.blake2b(text, digest_size=16).digest() for text in said.cast(pa.binary()).to_pylist())
    return pa.array(digests, pa.binary(16))


def laion_hashes(urls: pa.Array, texts: pa.Array) -> pa.Array:
    """LAION's join key, [rows] int64: the first 64 bits of MurmurHash3 over URL + text, as a signed number."""
    said = pc.binary_join_element_wise(urls, texts, "").cast(pa.binary())
    return pa.array((mmh3.hash64(text)[0] for text in said.to_pylist()), pa.int64())
