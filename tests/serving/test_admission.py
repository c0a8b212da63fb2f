"""Who is let into a lane: refused at once is whoever finds it full, or could not be done in time."""

from __future__ import annotations

import math
import time
from functools import partial

import pytest

from app.errors import Overloaded
from app.serving.queue import WorkQueue, in_threads
from tests.serving.test_queue import Calls, Gate, call, calls_queue, in_time, so, tried


def refused(lane: Calls, within_s: float, ahead: int = 0) -> int:
    """The seconds after which someone whose time is over in `within_s` is told to come back, without a wait."""
    with pytest.raises(Overloaded) as refusal:
        lane.admit(time.monotonic() + within_s, ahead={"": ahead})
    assert f"in {refusal.value.retry_after_s} s" in str(refusal.value)
    return refusal.value.retry_after_s


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=8), Gate()
        usual_s = (await call(lane, time.sleep, 0.5)).ran_ms / 1e3
        calls = [call(lane, gate.work, name) for name in range(8)]
        await so(lambda: gate.inside == 1)
        lane.admit(time.monotonic() + 100)
        calls.append(call(lane, gate.work, 8))
        await so(lambda: lane.expected_wait_s() > 8 * usual_s)
        # One that runs and eight that wait are ahead, each for half a second.
        assert 9 * usual_s <= refused(lane, within_s=100) <= 9 * usual_s + 1
        gate.open()
        for caller in calls:
            await caller
        lane.admit(in_time())

    tried(test)


def test_without_a_queue_there_is_room_for_those_who_run() -> None:
    async def test() -> None:
        lane, gate = calls_queue(2, queue_limit=0), Gate()
        calls = [call(lane, gate.work)]
        await so(lambda: gate.inside == 1)
        lane.admit(in_time())
        calls.append(call(lane, gate.work))
        await so(lambda: gate.inside == 2)
        assert refused(lane, within_s=100) == 1
        gate.open()
        for caller in calls:
            await caller
        lane.admit(in_time())

    tried(test)


def test_those_who_are_on_their_way_take_places_and_time_too() -> None:
    async def test() -> None:
        lane = calls_queue(1, queue_limit=3)
        lane.admit(in_time(), ahead={"": 3})
        assert refused(lane, within_s=100, ahead=4) == 1
        usual_s = (await call(lane, time.sleep, 0.2)).ran_ms / 1e3
        lane.admit(time.monotonic() + 3 * usual_s + 5, ahead={"": 2})  # their two passes, then one's own
        assert refused(lane, within_s=3 * usual_s - 0.05, ahead=2) == math.ceil(2 * usual_s)

    tried(test)


def test_what_cannot_be_done_in_time_is_refused() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=50), Gate()
        lane.admit(time.monotonic() + 0.01)  # nothing is known yet
        usual_s = (await call(lane, time.sleep, 0.4)).ran_ms / 1e3
        lane.admit(time.monotonic() + usual_s + 5)
        lane.admit(time.monotonic())  # an idle queue refuses nobody
        running = call(lane, gate.work)
        await so(lambda: gate.inside == 1)
        lane.admit(time.monotonic() + 2 * usual_s + 5)
        assert refused(lane, within_s=2 * usual_s - 0.05) == math.ceil(usual_s)
        gate.open()
        await running

    tried(test)


def test_a_wider_lane_is_expected_to_be_quicker() -> None:
    async def test() -> None:
        lane, gate = calls_queue(4, queue_limit=50), Gate()
        usual_s = (await call(lane, time.sleep, 0.3)).ran_ms / 1e3
        assert lane.expected_wait_s() == 0
        calls = [call(lane, gate.work) for _ in range(3)]
        await so(lambda: gate.inside == 3)
        assert lane.expected_wait_s() == 0
        calls += [call(lane, gate.work) for _ in range(8)]
        await so(lambda: gate.inside == 4)
        # Seven wait, so two rounds of four must end first.
        assert lane.expected_wait_s() == pytest.approx(2 * usual_s, rel=0.01)
        gate.open()
        for caller in calls:
            await caller

    tried(test)


def test_a_lane_of_batches_counts_its_passes() -> None:
    async def test() -> None:
        gate = Gate()
        lane: WorkQueue[str, str] = WorkQueue(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=4)
        assert lane.expected_wait_s(ahead={"": 8}) == 0
        gate.open()
        usual_s = (await lane.run("first", in_time())).ran_ms / 1e3
        await so(lambda: lane.expected_wait_s(ahead={"": 3}) == 0)
        assert lane.expected_wait_s(ahead={"": 8}) == pytest.approx(2 * usual_s, rel=0.01)

    tried(test)


def test_the_estimate_follows_what_passes_take() -> None:
    async def test() -> None:
        lane = calls_queue(1, queue_limit=50)
        for pause_s in (0.5, *[0.001] * 30):
            await lane.run(partial(time.sleep, pause_s), in_time())
        assert 0.001 < lane.expected_wait_s(ahead={"": 1}) < 0.25

    tried(test)


def test_one_slow_pass_does_not_move_the_estimate() -> None:
    async def test() -> None:
        lane = calls_queue(1, queue_limit=50)
        for pause_s in (0.001, 0.001, 0.001, 0.5):
            await lane.run(partial(time.sleep, pause_s), in_time())
        assert lane.expected_wait_s(ahead={"": 1}) < 0.25

    tried(test)


def test_after_any_number_of_slow_passes_a_queue_recovers_by_itself() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=50), Gate()
        for _ in range(12):
            await lane.run(partial(time.sleep, 0.3), in_time())
        within_s = 0.2
        for _ in range(4):  # each comes to an idle queue, which admits it, and corrects the estimate
            await so(lambda: lane.expected_wait_s() == 0)
            lane.admit(time.monotonic() + within_s)
            await lane.run(partial(time.sleep, 0.001), in_time())
        running = call(lane, gate.work)
        await so(lambda: gate.inside == 1)
        lane.admit(time.monotonic() + within_s)  # as before the slow passes, also where one is under way
        gate.open()
        await running

    tried(test)
