import json

from tests.stages import KEPT, all_stages, current


def test_a_stages_version_is_raised_when_its_code_changes() -> None:
    kept, now = json.loads(KEPT.read_text()), current()
    assert set(kept) == set(now), "stages came or went: run `make stages`"
    changed = [name for name in now if now[name]["code"] != kept[name]["code"] and now[name]["version"] == kept[name]["version"]]
    assert changed == [], f"the code of {changed} changed: raise the version if products change, then run `make stages`"
    assert now == kept, "versions were raised: run `make stages`"


def test_stages_have_names_of_their_own_and_list_their_modules() -> None:
    names = [stage.name for stage in all_stages()]
    assert len(names) == len(set(names)) >= 8
    assert all(stage.modules for stage in all_stages())
