"""The target of all requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.job.access import Access
from pipeline.sending.engines.client import Client


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. One response may take `deadline_s` seconds in all, however it arrives."""

    access: Access
    workflow: str
    deadline_s: float

    def client(self, tell: Callable[[str], None]) -> Client:
        """Returns a client for it, which the caller closes. `tell` gets notes for the user."""
        return Client(self.access, self.workflow, self.deadline_s, tell=tell)
