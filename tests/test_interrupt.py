"""A run that is to end hears of it wherever the signal found it."""

import signal
import time
from collections.abc import Iterator

import pytest

from tasks.interrupt import interruptible


class End(BaseException):
    """As Prefect raises it of SIGTERM."""


class Ends:
    """Something during whose destruction the signal comes."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class Fails:
    """Something whose destruction fails."""

    def __del__(self) -> None:
        raise ValueError("a destructor's own fault")


@pytest.fixture(autouse=True)
def _raised() -> Iterator[None]:
    def end(_number: int, _frame: object) -> None:
        raise End

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)
    with interruptible():  # a run that begins is not told of the one before
        pass


def run_that_is_told_to_end(reached: list[str]) -> None:
    with interruptible():
        thing = Ends()
        del thing
        reached.append("after the destructor: Python could not raise it there")
        for _ in range(600):
            time.sleep(0.1)


def test_a_signal_that_came_where_nothing_can_be_raised_is_not_lost_and_shows_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reached: list[str] = []
    with pytest.raises(End):
        run_that_is_told_to_end(reached)
    assert reached
    assert capsys.readouterr().err == ""


def test_a_fault_that_cannot_be_raised_is_shown_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with interruptible():
        thing = Fails()
        del thing
    assert "a destructor's own fault" in capsys.readouterr().err
