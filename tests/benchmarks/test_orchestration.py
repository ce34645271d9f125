"""The orchestration benchmark's figures follow from what was timed."""

from benchmarks.orchestration import Pair, figures
from benchmarks.plainly import Clock


def pair(flow: float, plain: float, outside: float, accuracy: float = 0.8) -> Pair:
    told = {"decision": "publish", "accuracy": {"lora": accuracy}}
    took = {"seconds": flow, "outside": outside, "own_cpu": 5.0, "server_cpu": 2.5}
    return {"flow": took | told, "plain": {"seconds": plain, "outside": 0.1, "own_cpu": 4.0, "server_cpu": 0.5} | told}


def test_the_share_is_of_the_longest_bake_offs_and_the_rest_are_medians() -> None:
    found = figures([pair(12, 10, 1.6), pair(11, 10, 1.2), pair(19, 10, 1.4)], [pair(303, 300, 2.1)], [4.0, 6.0, 5.0])
    assert (found["overhead_s"], found["overhead_spread"]) == (2.0, [1.0, 9.0])
    assert (found["overhead_share"], found["plain_s"]) == (0.01, 300)
    assert (found["outside_s"], found["outside_spread"]) == (1.4, [1.1, 2.0])
    assert (found["engine_cpu_s"], found["engine_cpu_share"]) == (3.0, 0.01)
    assert (found["unchanged_s"], found["same"]) == (5.0, True)
    assert found["met"] == {"outside": True, "overhead": True, "unchanged": True, "same": True}


def test_more_than_is_allowed_and_another_result_are_told() -> None:
    assert not figures([pair(12, 10, 3.5)], [], [5.0])["met"]["outside"]
    assert not figures([pair(20, 10, 1.0)], [], [5.0])["met"]["overhead"]
    assert not figures([pair(12, 10, 1.0)], [], [10.5])["met"]["unchanged"]
    other = {**pair(12, 10, 1.0), "flow": pair(12, 10, 1.0, accuracy=0.7)["flow"]}
    assert not figures([other], [], [5.0])["met"]["same"]


def test_time_outside_of_stages_counts_stages_side_by_side_once_and_what_they_show_as_outside() -> None:
    clock = Clock()
    clock.spans = [(5.0, 9.0), (1.0, 4.0), (2.0, 3.0), (3.5, 6.0)]
    clock.shown = 0.5
    assert clock.outside(10.0) == 10.0 - 8.0 + 0.5
