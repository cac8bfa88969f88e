"""The counts of a ledger, counted again only when the ledger has changed.

A million rows take half a second to count, and a page asks for the counts of each job again and
again.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from pipeline.ledger import queries
from pipeline.ledger.queries import Counts
from pipeline.ledger.reader import Read
from pipeline.ledger.row_states import mark

_MOST = 100


class KeptCounts:
    """The last counts of several ledgers. Any thread may call it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[object, Counts]] = OrderedDict()
        self._lock = Lock()

    def of(self, ledger: Path, read: Read) -> Counts:
        """Returns what `queries.counts` does. `read` reads the ledger at this path.

        Raises:
            StorageFailed: as `queries.counts` does.
        """
        name = str(ledger)
        folder_id = read(queries.meta(queries.FOLDER_ID))
        stamp = (folder_id, read(mark), read(queries.last_run))
        with self._lock:
            known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = read(queries.counts)
        with self._lock:
            self._known[name] = stamp, found
            self._known.move_to_end(name)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        return found
