from pathlib import Path
from typing import Any

import pytest

from tasks.errors import EndpointError
from tasks.prompting.lookup import find_model
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, error
from tests.verdict.test_report import shown, verdict


def models(request: dict[str, Any], number: int) -> Say:
    return Say({"object": "list", "data": [{"id": "other"}, {"id": "m", "shutdown_date": "2027-01-31"}]})


def test_prices_and_the_announced_end_are_found_once_a_day_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(models) as server:
        settings = Settings(endpoints={"there": make_endpoint(server.url, priced_on="2026-11-01")})
        first, again = (find_model("there", settings, Workspace(tmp_path)) for _ in range(2))
        assert [request["path"] for request in server.listed] == ["/v1/models"]
    assert again == first.model_copy(update={"reused": True})
    assert caplog.text.count("m ends on 2027-01-31") == 2
    told = " ".join(shown(verdict().model_copy(update={"models": [first]})).split())
    assert "there: m, $1 in, $2 out a million tokens (settings of 2026-11-01); its provider ends it on 2027-01-31" in told


def test_a_refused_key_is_found_before_anything_is_spent_and_asked_for_again(tmp_path: Path) -> None:
    with Loopback(lambda request, number: error(401) if number == 1 else models(request, number)) as server:
        settings = Settings(endpoints={"there": make_endpoint(server.url)})
        with pytest.raises(EndpointError, match="refused the key with status 401"):
            find_model("there", settings, Workspace(tmp_path))
        assert find_model("there", settings, Workspace(tmp_path)).shutdown_date is not None


def test_the_end_that_the_operator_names_holds_where_the_providers_list_names_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ends(listed: dict[str, str], **named: str) -> str:
        with Loopback(lambda request, number: Say({"object": "list", "data": [{"id": "m", **listed}]})) as server:
            settings = Settings(endpoints={"there": make_endpoint(server.url, **named)})
            return str(find_model("there", settings, Workspace(tmp_path)).shutdown_date)

    assert ends({}) == "None"
    assert ends({}, ends_on="2027-05-06") == "2027-05-06"
    assert "the settings say that m ends on 2027-05-06: plan for another" in caplog.text
    assert ends({"shutdown_date": "2027-01-31"}, ends_on="2027-05-06") == "2027-01-31"


def test_a_day_that_the_operator_names_after_the_model_was_asked_about_holds_at_once(tmp_path: Path) -> None:
    with Loopback(lambda request, number: Say({"object": "list", "data": [{"id": "m"}]})) as server:
        for day in (None, "2027-05-06", "2027-06-07"):
            settings = Settings(endpoints={"there": make_endpoint(server.url, ends_on=day)})
            found = find_model("there", settings, Workspace(tmp_path)).shutdown_date
            assert (found and str(found)) == day
        assert len(server.listed) == 1
