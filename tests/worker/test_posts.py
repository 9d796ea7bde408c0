"""What an evaluation says before its end, to a receiver of the head's."""

import asyncio

import pytest

import hyperflow as hf
from hyperflow import environment
from hyperflow.testing import open_inline_job
from hyperflow.worker import worker


def _say(first: int, count: int) -> int:
    for number in range(first, first + count):
        worker.post("numbers", number)
    return count


@hf.job
async def _counting(single: bool) -> tuple[list[int], list[int]]:
    heard: list[int] = []
    environment.current().evaluator.receivers["numbers"] = heard.append
    if single:
        return [await hf.remote_eval(_say, 0, 100)], heard
    said = await hf.map_concurrently(lambda first: hf.remote_eval(_say, first, 40), range(0, 200, 40))
    return list(said), heard


@pytest.mark.parametrize("single", [True, False])
def test_posts_come_before_the_answer(single: bool) -> None:
    """More of them than may be unread, from one evaluation and from many in a batch."""
    said, heard = hf.run_job_local(_counting(single), cpus=2, progress=False)
    assert sum(said) == len(heard)
    assert sorted(heard) == list(range(sum(said)))
    assert not single or heard == sorted(heard)


async def test_inline_posts() -> None:
    """The environment for tests has receivers, too."""
    async with open_inline_job():
        said, heard = await _counting(single=False)
    assert sorted(heard) == list(range(sum(said)))


def test_a_slow_receiver_is_waited_for() -> None:
    """A receiver that returns futures has few posts unread at a time."""

    @hf.job
    async def slow() -> int:
        waiting: list[asyncio.Future[None]] = []
        most = 0

        def take(_: object) -> asyncio.Future[None]:
            nonlocal most
            waiting.append(asyncio.get_running_loop().create_future())
            most = max(most, len(waiting))
            asyncio.get_running_loop().call_later(0.001, lambda: waiting.pop(0).set_result(None))
            return waiting[-1]

        environment.current().evaluator.receivers["numbers"] = take
        await hf.remote_eval(_say, 0, 100)
        return most

    assert 0 < hf.run_job_local(slow(), cpus=1, progress=False) <= 16
