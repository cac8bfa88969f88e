"""A frame: the rows that a program passes to `run_frame`, in place of a sheet's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.core.model import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa


class Frame:
    """The rows of a frame as an Arrow table, and the settings of the call that passed it.

    It may have any size, and its texts are private. So it is never copied, compared by its content
    or printed. `flaws` says, by the position of a column, why the column cannot be sent. `settings`
    are in the form of the job file. `table` is None if the program that had the rows has ended:
    its run folder can still be read.
    """

    __slots__ = ("flaws", "settings", "table")

    name = "the frame"
    """How messages name it, as they name a file."""

    def __init__(
        self, settings: JsonObject, table: pa.Table | None = None, flaws: Mapping[int, str] = {}
    ) -> None:
        self.settings = settings
        self.table = table
        self.flaws = flaws

    def __repr__(self) -> str:
        return self.name

    def __copy__(self) -> Frame:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frame:
        return self
