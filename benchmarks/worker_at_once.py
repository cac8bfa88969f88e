"""A Ray worker that answers at once, so that only the driver's own work is measured."""

from __future__ import annotations

from at_once import reply_at_once

from pipeline.sending.engines.worker import BatchedRequest, Worker


class InstantWorker(Worker):
    """A worker that has the reply as soon as it gets the request."""

    async def send(self, batch: int, requests: list[BatchedRequest]) -> None:
        self._received.append(batch)
        self._landed.extend((request.number, reply_at_once()) for request in requests)
        self._news.set()
