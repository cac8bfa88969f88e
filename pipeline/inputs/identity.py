"""Row keys and identities, and which rows are equal. Pure.

A row's key is BLAKE2b-128 of the workflow and the (name, value) pairs sorted by name. Each text has
its length in front, so different pairs never give the same bytes. With an `id` column an answer
belongs to (id, key). Equal rows differ in their occurrence: 0, 1, 2 in the order of the sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16


def key_of(workflow: str, variables: Mapping[str, str]) -> bytes:
    """Returns the row key of variables as they were sent, in their order."""
    digest = blake2b(sized(workflow), digest_size=KEY_BYTES)
    for name, text in variables.items():
        digest.update(sized(name) + sized(text))
    return digest.digest()


def identity(row_key: bytes, row_id: str | None) -> bytes:
    """Returns the identity that an answer belongs to: the key, or a hash of (id, key)."""
    if row_id is None:
        return row_key
    return blake2b(row_key + row_id.encode(), digest_size=KEY_BYTES).digest()


def occurrences(identities: bytes | bytearray) -> npt.NDArray[np.int32]:
    """Returns, for each 16-byte identity, how many equal ones come before it. Takes 32 bytes of
    memory per row."""
    ascending = np.sort(np.frombuffer(identities, dtype="u8")[::2])
    if not (ascending[1:] == ascending[:-1]).any():  # the first 64 bits are all different
        return np.zeros(len(ascending), dtype=np.int32)
    order, group_start = _arranged(identities)
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order)) - group_start
    return ranks


@dataclass(frozen=True, slots=True)
class Duplicates:
    """With `dedupe: true`, the numbers of the rows that are equal to an earlier row, and for each
    the number of the first equal row. That row is sent for all of them."""

    numbers: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]


def find_duplicates(row_keys: bytes | bytearray, numbers: npt.NDArray[np.int64]) -> Duplicates:
    """Returns the duplicates among rows with these 16-byte keys and these row numbers."""
    order, group_start = _arranged(row_keys)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[group_start]
    later = np.flatnonzero(first != np.arange(len(order)))
    return Duplicates(numbers[later], numbers[first[later]])


def no_duplicates() -> Duplicates:
    """Returns no duplicates, as in a sheet without `dedupe: true`."""
    none = np.zeros(0, dtype=np.int64)
    return Duplicates(none, none)


def _arranged(
    identities: bytes | bytearray,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorts 16-byte identities so that equal ones are together, in the order of the sheet. Returns
    that order, and for each place in it the place where its group begins."""
    high, low = np.frombuffer(identities, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
    order = np.argsort(high, kind="stable")
    arranged = high[order]
    if (arranged[1:] == arranged[:-1]).any():  # otherwise the first 64 bits are all different
        order = np.lexsort((low, high))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    return order, np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))


def sized(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw


@dataclass(frozen=True, slots=True)
class SheetKeys:
    """The rows of one sheet without the skipped ones: for each its number, a 64-bit digest of its
    identity, and a digest of its id if rows have ids."""

    numbers: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint64] | None


def digests(identities: bytes | bytearray) -> npt.NDArray[np.uint64]:
    """Returns a 64-bit digest for each 16-byte identity. The occurrence makes the digests of equal
    identities different. Takes 24 bytes of memory per row."""
    found = occurrences(identities).astype(np.uint64)
    found *= np.uint64(0x9E3779B97F4A7C15)
    high, low = np.frombuffer(identities, dtype=">u8").reshape(-1, 2).T
    found ^= high
    found ^= low << np.uint64(1)
    return found
