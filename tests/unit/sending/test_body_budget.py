"""The memory budget for the bodies of responses."""

from __future__ import annotations

import asyncio
import gc
import random
import threading

from pipeline.core.model import Reply
from pipeline.sending.engines.body_budget import COUNTED_FROM_BYTES, BodyBudget

MIB = 1024 * 1024


def test_bodies_that_all_want_more_than_the_budget_finish_one_after_the_other():
    """40 bodies of 10 MiB with a budget of 32 MiB never take more than the budget and one body."""

    async def go() -> int:
        budget = BodyBudget(32 * MIB)
        lowest = 0
        chance = random.Random(1)

        async def read() -> None:
            nonlocal lowest
            share = budget.share()
            for size in range(MIB, 11 * MIB, MIB):
                await share.grow(size)
                lowest = min(lowest, budget.free_bytes)
                await asyncio.sleep(chance.random() / 10_000)
            share.shrink(0)

        await asyncio.wait_for(asyncio.gather(*(read() for _ in range(40))), 30)
        assert budget.free_bytes == 32 * MIB
        return lowest

    assert asyncio.run(go()) >= -10 * MIB


def test_small_bodies_cost_nothing_and_never_wait():
    """Even when the budget is used up."""

    async def go() -> None:
        budget = BodyBudget(0)
        await asyncio.wait_for(budget.share().grow(COUNTED_FROM_BYTES), 1)
        assert budget.free_bytes == 0

    asyncio.run(go())


def test_the_bytes_come_back_when_the_reply_leaves_memory_on_any_thread():
    """The ledger's thread may be the last one that refers to the reply."""

    async def go() -> None:
        budget = BodyBudget(10 * MIB)
        share = budget.share()
        await share.grow(4 * MIB)
        holder = [Reply(0.0, 1.0, 200, {}, b"x")]
        share.until_gone(holder[0])
        await asyncio.sleep(0)
        assert budget.free_bytes == 6 * MIB
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        gc.collect()
        await asyncio.sleep(0.01)
        assert budget.free_bytes == 10 * MIB

    asyncio.run(go())


def test_a_body_that_is_cancelled_while_it_waits_does_not_disturb_the_others():
    """Its deadline passed."""

    async def go() -> None:
        budget = BodyBudget(MIB)
        first, second, third = budget.share(), budget.share(), budget.share()
        await first.grow(MIB)
        await second.grow(MIB)
        waiting = asyncio.create_task(third.grow(MIB))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.shrink(0)
        first.shrink(0)
        await asyncio.wait_for(third.grow(MIB), 1)

    asyncio.run(go())
