"""What the Hub does not have, or cannot say, ends a run at the door: a message that names it, no traceback, nothing spent."""

from pathlib import Path

import pytest

from tests.hub.conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there


@pytest.mark.parametrize(
    ("override", "environment", "status", "said"),
    [
        ("dataset.source=shawhin/nothing", {}, 2, "there is no data set 'shawhin/nothing'"),
        ("dataset.revision=v9", {}, 2, "data set 'shawhin/imdb-truncated' has no revision 'v9' on the Hub"),
        ("dataset.subset=klingon", {}, 2, "klingon"),
        ("tuned.0.base=distilbert/nothing", {}, 2, "there is no base 'distilbert/nothing' on the Hub"),
        ("tuned.0.revision=v9", {}, 2, "base 'distilbert-base-uncased' has no revision 'v9' on the Hub"),
        ("dataset.revision=main", NO_HUB, 1, "the Hub could not be asked for it"),
    ],
)
def test_a_fault_of_the_hub_is_told_and_nothing_is_spent(
    override: str, environment: dict[str, str], status: int, said: str, world: World, root: Path
) -> None:
    before = len(world.openai.requests)
    done = world.bakeoff("run", root / "configs" / "imdb.yaml", override, "--output", "json", **environment)

    assert done.returncode == status, done.stderr[-4000:]
    assert done.stdout == ""
    assert said in done.stderr.split("\nbakeoff: ")[1]
    assert "Traceback" not in done.stderr
    assert len(world.openai.requests) == before


def test_a_stage_that_fails_is_told_and_not_what_waited_for_it(world: World, root: Path) -> None:
    done = world.bakeoff("run", root / "configs" / "imdb.yaml", "tuned.0.max_tokens=1024", "--output", "json")

    assert done.returncode == 2, done.stderr[-4000:]
    assert "bakeoff: lora: max_tokens is 1,024, but distilbert-base-uncased takes at most 512" in done.stderr
    assert "Traceback" not in done.stderr
