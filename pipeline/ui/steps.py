"""What a button of the page can start: one command of the command line, with the plan that it
showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.errors import Refused
from pipeline.planning.selection import Selection, parse_rows, select_again, select_resume

RUN, RESUME = "run", "resume"
TRIED = 5
"""The rows of a first paid sample."""


@dataclass(frozen=True, slots=True)
class Step:
    """One `run` or `resume`, with the options that choose its rows. `rows` are row numbers, as a
    user types them. `again` is the name of an answer, or a flag."""

    verb: str = RUN
    limit: int | None = None
    rows: str | None = None
    only: str | None = None
    ambiguous: bool = False
    again: str | None = None

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Step:
        """The step of a command that the runner proposes, such as ("resume", "--only", "gateway").

        Raises:
            Refused: for an option that no button has.
        """
        verb, *options = words
        found: dict[str, str] = {"do": verb}
        while options:
            name = options.pop(0).removeprefix("--")
            found[name] = "1" if name == "ambiguous" else options.pop(0)
        return cls.of_fields(found)

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Step:
        """The step of a form or an address.

        Raises:
            Refused: if it is none.
        """
        verb, limit = fields.get("do", RUN), fields.get("limit")
        if verb not in (RUN, RESUME) or (limit is not None and not limit.isdecimal()):
            raise Refused("The page has no such button.")
        return cls(
            verb,
            None if limit is None else int(limit[:12]),
            fields.get("rows"),
            fields.get("only"),
            fields.get("ambiguous") == "1",
            fields.get("again"),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields from which `of_fields` makes this step."""
        found = {"do": self.verb, "ambiguous": "1" if self.ambiguous else None}
        found |= {"limit": None if self.limit is None else str(self.limit)}
        found |= {"rows": self.rows, "only": self.only, "again": self.again}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the command, as a user types them."""
        given = {"limit": self.limit, "rows": self.rows, "only": self.only, "again": self.again}
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return (*words, "--ambiguous") if self.ambiguous else tuple(words)

    @property
    def words(self) -> tuple[str, ...]:
        """The command as a user types it, without its job."""
        return (self.verb, *self.options)

    def selection(self) -> Selection:
        """The rows that the command chooses."""
        if self.verb == RESUME:
            codes = None if self.only is None else frozenset(self.only.split(","))
            rows = None if self.rows is None else parse_rows(self.rows)
            return select_resume(only=codes, rows=rows, ambiguous=self.ambiguous, limit=self.limit)
        if self.again is not None:
            return select_again(limit=self.limit, flags=[self.again])
        return Selection(limit=self.limit)
