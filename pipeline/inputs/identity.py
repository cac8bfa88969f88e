"""What a row is called: its key, and which rows are equal. Pure.

A row's key is BLAKE2b-128 over the workflow and the (name, value) pairs sorted by name, each with
its length in front so that no two sets of pairs read alike. With an `id` column an answer belongs
to (id, key). Equal rows are told apart by their occurrence: 0, 1, 2 in the order of the sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16


def key_of(workflow: str, variables: Mapping[str, str]) -> bytes:
    """The row key of variables as they were sent, in their order."""
    digest = blake2b(sized(workflow), digest_size=KEY_BYTES)
    for name, text in variables.items():
        digest.update(sized(name) + sized(text))
    return digest.digest()


def identity(row_key: bytes, row_id: str | None) -> bytes:
    """What an answer belongs to: the key, or (id, key)."""
    if row_id is None:
        return row_key
    return blake2b(row_key + row_id.encode(), digest_size=KEY_BYTES).digest()


def occurrences(identities: bytes) -> npt.NDArray[np.int32]:
    """For each 16-byte identity in turn, how many equal ones stand before it. 32 bytes a row."""
    order, group_start = _arranged(identities)
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order)) - group_start
    return ranks


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Under `dedupe: true` the numbers of the sheet's rows that are equal to an earlier one, and
    for each the first of those: that one is sent, for all of them."""

    numbers: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]


def find_duplicates(row_keys: bytes, numbers: npt.NDArray[np.int64]) -> Duplicates:
    """The duplicates among rows with these 16-byte keys, which stand at these sheet rows."""
    order, group_start = _arranged(row_keys)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[group_start]
    later = np.flatnonzero(first != np.arange(len(order)))
    return Duplicates(numbers[later], numbers[first[later]])


def no_duplicates() -> Duplicates:
    """What there is without `dedupe: true`."""
    none = np.zeros(0, dtype=np.int64)
    return Duplicates(none, none)


def _arranged(identities: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """16-byte identities in an order in which equal ones stand together, as in the sheet among
    themselves, and for each place of that order where its group begins."""
    high, low = np.frombuffer(identities, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
    order = np.argsort(high, kind="stable")
    arranged = high[order]
    if (arranged[1:] == arranged[:-1]).any():  # else 64 bits tell all of them apart
        order = np.lexsort((low, high))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    return order, np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))


def sized(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw


@dataclass(frozen=True, slots=True)
class SheetKeys:
    """The rows of one sheet, without the skipped ones: where each stands, a 64-bit digest of what
    it is, and one of its id where rows have ids."""

    numbers: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint64] | None


def digests(identities: bytes) -> npt.NDArray[np.uint64]:
    """64 bits for each 16-byte identity in turn, equal ones told apart by their occurrence."""
    halves = np.frombuffer(identities, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    spread = occurrences(identities).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found: npt.NDArray[np.uint64] = halves[:, 0] ^ (halves[:, 1] << np.uint64(1)) ^ spread
    return found
