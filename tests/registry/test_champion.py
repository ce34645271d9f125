"""Versions of a champion: taken back, listed, compared, proved and pruned, on a real S3 server."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cli.main import main
from services.places import LivePlaces
from tasks.config import Trivial
from tasks.errors import BadConfig, IntegrityError, LostRace, Refused, StoreError
from tasks.manifest import FILE
from tasks.registry.champion import PRUNING, ChampionVersion, move_champion, read_champion, read_version
from tasks.registry.history import difference, history, verify
from tasks.registry.lineage import CODE, _code_sha256
from tasks.registry.prune import prune
from tasks.registry.publish import publish
from tasks.registry.rollback import roll_back
from tasks.settings import Settings
from tasks.store import StoreClient
from tasks.workspace import Workspace
from tests.registry.making import NAME, make_champion, make_folder, make_publication
from tests.registry.proxy import Proxy


@pytest.fixture
def three(settings: Settings, client: StoreClient, tmp_path: Path) -> list[ChampionVersion]:
    """Three champions, one after the other."""
    found: list[ChampionVersion] = []
    for name in ("first", "second", "third"):
        found.append(make_champion(settings, client, make_folder(tmp_path / name, name), found[-1] if found else None))
    return found


def champion_key(client: StoreClient, file: str) -> str:
    return client.key("champions", NAME, file)


def test_a_rollback_is_a_version_with_who_when_why_and_what_it_goes_back_to(
    settings: Settings, client: StoreClient, three: list[ChampionVersion]
) -> None:
    back = roll_back(settings, client, NAME, 1, "it answers too slowly")
    assert read_champion(settings, client, NAME) == back
    assert (back.version, back.previous, back.event, back.back_to) == (4, 3, "rollback", 1)
    assert (back.sha256, back.contender, back.reason) == (three[0].sha256, "first", "it answers too slowly")
    assert "@" in back.publisher
    assert back.published >= three[2].published
    assert read_version(client, NAME, 4) == back
    assert roll_back(settings, client, NAME, 1, "said twice") == back  # an earlier try got this far
    forth = roll_back(settings, client, NAME, 3, "it was not that")
    assert (forth.version, forth.contender) == (5, "third")


def test_a_rollback_to_what_is_not_there_or_is_champion_or_without_a_reason_is_refused(
    settings: Settings, client: StoreClient, three: list[ChampionVersion]
) -> None:
    with pytest.raises(BadConfig, match="has no version 9; there are 1, 2, 3"):
        roll_back(settings, client, NAME, 9, "why")
    with pytest.raises(BadConfig, match="third of version 3 is champion 'tiny' already"):
        roll_back(settings, client, NAME, 3, "why")
    with pytest.raises(BadConfig, match="reason is empty"):
        roll_back(settings, client, NAME, 1, " ")
    with pytest.raises(BadConfig, match="nothing to take back"):
        roll_back(settings, client, "other", 1, "why")
    assert read_champion(settings, client, NAME) == three[2]


def test_a_rollback_to_a_contender_that_was_changed_in_the_store_leaves_the_champion(
    settings: Settings, client: StoreClient, three: list[ChampionVersion]
) -> None:
    key = client.key("contenders", three[0].sha256, "note.txt")
    client.client.put_object(Bucket=client.store.bucket, Key=key, Body=b"fir5t")
    with pytest.raises(IntegrityError, match="is not what contender"):
        roll_back(settings, client, NAME, 1, "why")
    assert read_champion(settings, client, NAME) == three[2]


def test_a_rollback_that_somebody_overtakes_is_told_so(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtake(settings: Settings, client: StoreClient, draft: ChampionVersion) -> ChampionVersion:
        make_champion(settings, client, make_folder(tmp_path / "fourth", "fourth"), three[2])
        return move_champion(settings, client, draft)

    monkeypatch.setattr("tasks.registry.rollback.move_champion", overtake)
    with pytest.raises(LostRace, match=r"is now version 4 \(fourth.*this rollback was to replace version 3"):
        roll_back(settings, client, NAME, 1, "why")


def test_what_was_taken_back_is_not_published_again_until_a_person_brings_it_back(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path
) -> None:
    back = roll_back(settings, client, NAME, 2, "complaints")
    with pytest.raises(Refused, match=r"third was champion 'tiny' as version 3 until .* took it back on .* \(complaints\)"):
        make_champion(settings, client, tmp_path / "third", back)
    again = roll_back(settings, client, NAME, 1, "more complaints")
    for name in ("second", "third"):
        with pytest.raises(Refused, match="took it back"):
            make_champion(settings, client, tmp_path / name, again)
    fourth = make_champion(settings, client, make_folder(tmp_path / "fourth", "fourth"), again)
    assert make_champion(settings, client, tmp_path / "third", fourth).version == 7  # it was measured against another since


def test_an_old_pointer_is_known_for_one_on_a_machine_that_never_saw_a_newer_one(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path
) -> None:
    body = client.read(champion_key(client, "v000001.json"))
    assert body
    client.client.put_object(Bucket=client.store.bucket, Key=champion_key(client, "champion.json"), Body=body[0])
    elsewhere = settings.model_copy(update={"home": tmp_path / "another machine"})
    with pytest.raises(IntegrityError, match="to version 1, but version 3 replaced version 2: an old pointer"):
        make_champion(elsewhere, client, make_folder(tmp_path / "fourth", "fourth"), three[0])
    with pytest.raises(IntegrityError, match="but version 2 was champion"):
        verify(elsewhere, client, NAME)


def test_the_history_tells_champions_from_versions_that_never_were(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path
) -> None:
    late = make_folder(tmp_path / "late", "late")
    with pytest.raises(LostRace):
        make_champion(settings, client, late, three[1])
    lost = three[2].model_copy(update={"version": 4, "previous": 2, "contender": "late"})
    client.write_once(champion_key(client, "v000004.json"), lost.model_dump_json().encode())
    roll_back(settings, client, NAME, 1, "why")
    told = [(entry.version, entry.state, entry.back_to, entry.whole) for entry in history(settings, client, NAME)]
    assert told == [
        (5, "champion", 1, True),
        (4, "never champion", None, True),
        (3, "was champion", None, True),
        (2, "was champion", None, True),
        (1, "was champion", None, True),
    ]


def test_order_is_by_version_though_a_publishers_clock_is_behind(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "fourth", "fourth")
    late = make_champion(settings, client, folder, three[2], published=three[0].published - timedelta(hours=2))
    assert read_champion(settings, client, NAME) == late
    elsewhere = settings.model_copy(update={"home": tmp_path / "another machine"})
    for machine in (settings, elsewhere):
        entries = history(machine, client, NAME)
        assert [entry.version for entry in entries] == [4, 3, 2, 1]
        assert [entry.state for entry in entries] == ["champion", "was champion", "was champion", "was champion"]
    assert min(entries, key=lambda entry: entry.published).version == 4
    assert roll_back(settings, client, NAME, 1, "why").version == 5


def test_verify_finds_a_changed_file_a_missing_one_and_a_pointer_that_says_something_else(
    settings: Settings, client: StoreClient, three: list[ChampionVersion]
) -> None:
    assert [(proof.version, proof.files, proof.fault) for proof in verify(settings, client, NAME)] == [(3, 2, "")]
    client.client.put_object(Bucket=client.store.bucket, Key=client.key("contenders", three[0].sha256, "note.txt"), Body=b"changed")
    client.remove(client.key("contenders", three[1].sha256, "note.txt"))
    other = three[2].model_copy(update={"reason": "forged"})
    client.client.put_object(
        Bucket=client.store.bucket, Key=champion_key(client, "champion.json"), Body=other.model_dump_json().encode()
    )
    faults = {proof.version: proof.fault for proof in verify(settings, client, NAME, everything=True)}
    assert "note.txt is not what contender.json says" in faults[1]
    assert "not whole" in faults[2]
    assert "the pointer is not what the record of version 3 says" in faults[3]


def test_a_difference_names_what_changed_and_shows_a_prompts_lines(settings: Settings, client: StoreClient, tmp_path: Path) -> None:
    config = {"gate": {"alpha": 0.05}, "prompts": [{"name": "a"}]}
    one = make_folder(tmp_path / "one", "one", "prompt", {"prompt.json": '{\n"ask": "Is it good?"\n}', "same.txt": "same"})
    two = make_folder(tmp_path / "two", "two", "prompt", {"prompt.json": '{\n"ask": "Good or bad?"\n}', "same.txt": "same"})
    before = make_champion(settings, client, one, config=config, scores={"test": {"accuracy": 0.8, "n": 40}})
    config = {"gate": {"alpha": 0.01}, "prompts": [{"name": "a"}]}
    after = make_champion(settings, client, two, before, config=config, scores={"test": {"accuracy": 0.9, "n": 40}}, dataset="new")
    found = difference(client, before, after)
    assert found.metrics == {"test.accuracy": (0.8, 0.9)}
    assert found.config == {"gate.alpha": (0.05, 0.01)}
    assert found.data["fingerprint"] == (before.dataset, "new")
    assert list(found.files) == ["prompt.json"]
    assert '-"ask": "Is it good?"' in found.prompts["prompt.json"]
    assert '+"ask": "Good or bad?"' in found.prompts["prompt.json"]


def test_prune_shows_first_and_keeps_what_a_pointer_or_a_newer_version_needs(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path
) -> None:
    fourth = make_champion(settings, client, make_folder(tmp_path / "fourth", "fourth"), three[2])
    make_champion(settings, client, make_folder(tmp_path / "second", "second"), None, name="other")
    shown = prune(settings, client, keep=2, grace_s=0)
    assert [(each.sha256, each.versions) for each in shown.contenders] == [
        (three[0].sha256, ["tiny 1"])
    ]  # `other` needs the second
    assert not shown.removed
    assert client.exists(client.key("contenders", three[0].sha256, FILE))
    assert prune(settings, client, keep=2, really=True).contenders == []  # all are younger than a day
    done = prune(settings, client, keep=2, really=True, grace_s=0)
    assert done == shown.model_copy(update={"removed": True})
    assert client.listed("contenders", three[0].sha256) == []
    assert client.listed(PRUNING) == []
    assert verify(settings, client, NAME)[0].fault == ""
    assert read_version(client, NAME, 1) == three[0]
    assert [entry.whole for entry in history(settings, client, NAME)] == [True, True, True, False]
    with pytest.raises(IntegrityError, match="not whole"):
        roll_back(settings, client, NAME, 1, "too late")
    assert read_champion(settings, client, NAME) == fourth


def test_prune_keeps_what_a_rollback_went_back_to_and_what_it_replaced(
    settings: Settings, client: StoreClient, three: list[ChampionVersion]
) -> None:
    roll_back(settings, client, NAME, 1, "why")
    shown = prune(settings, client, keep=1, grace_s=0)
    assert [each.sha256 for each in shown.contenders] == [three[1].sha256]


def test_a_version_that_comes_to_be_while_a_prune_is_at_work_keeps_its_contender_or_does_not_become_champion(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, outcomes = StoreClient.write_once, []

    def between(self: StoreClient, key: str, body: bytes) -> bool:
        """A rollback begins and ends right after the prune has set its mark."""
        written = write(self, key, body)
        if f"/{PRUNING}/" in key:
            monkeypatch.setattr(StoreClient, "write_once", write)
            with pytest.raises(StoreError, match="about to be removed by a prune"):
                roll_back(settings, client, NAME, 1, "why")
            outcomes.append("told")
        return written

    monkeypatch.setattr(StoreClient, "write_once", between)
    assert prune(settings, client, keep=1, really=True, grace_s=0).contenders == []  # its record was seen in time
    assert outcomes == ["told"]
    assert read_champion(settings, client, NAME) == three[2]
    assert roll_back(settings, client, NAME, 1, "why").version == 4  # the record that was written before


def test_a_first_champion_whose_pointer_is_about_to_be_written_keeps_its_contender(
    settings: Settings, client: StoreClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, removed = StoreClient.write_once, []

    def between(self: StoreClient, key: str, body: bytes) -> bool:
        """A prune begins and ends when the record is there, no mark was seen, and the pointer comes next."""
        if key.endswith("/champion.json"):
            monkeypatch.setattr(StoreClient, "write_once", write)
            removed.append(prune(settings, client, keep=1, really=True, grace_s=0).contenders)
        return write(self, key, body)

    monkeypatch.setattr(StoreClient, "write_once", between)
    make_champion(settings, client, make_folder(tmp_path / "first", "first"))
    assert removed == [[]]
    assert [proof.fault for proof in verify(settings, client, NAME)] == [""]


def test_a_published_version_holds_its_lineage_and_its_evidence_lies_beside_it(
    made: Path, places: LivePlaces, tmp_path: Path, settings: Settings, client: StoreClient
) -> None:
    publish(make_publication(made, places, "direct", Trivial.MAJORITY), places, Workspace(tmp_path / "workspace"))
    champion = read_champion(settings, client, NAME)
    assert champion
    assert champion.lineage
    assert champion.scores["test"]["n"] == 40
    assert champion.lineage.data.rows == {"train": 96, "dev": 32, "test": 40}
    assert len(set(champion.lineage.data.splits.values())) == 3
    assert champion.lineage.environment.packages["torch"]
    assert len(champion.lineage.environment.code) == 64
    stored = {entry.key.rsplit("/", 1)[-1] for entry in client.listed("evidence")}
    assert stored == {f"{champion.lineage.verdict}.json", f"{champion.lineage.predictions}.parquet"}


def test_a_published_version_tells_how_often_test_was_looked_at_and_one_of_an_earlier_release_is_read_without(
    made: Path, places: LivePlaces, tmp_path: Path, settings: Settings, client: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    publication = make_publication(made, places, "direct", Trivial.MAJORITY)
    publish(publication, places, Workspace(tmp_path / "workspace"))
    champion = read_champion(settings, client, NAME)
    assert champion
    assert champion.looks == publication.verdict.looks
    seen = "looks      3 contenders measured on the test rows by then; "
    luck = "had none been better, luck would have promoted one with a chance of up to 7 %"
    assert seen + luck in bakeoff(settings, tmp_path, monkeypatch, "show").stdout
    old = champion.model_dump(mode="json", exclude={"looks"}) | {"version": 2, "previous": 1}
    for file in ("v000002.json", "champion.json"):
        body = json.dumps(old).encode()
        client.client.put_object(Bucket=client.store.bucket, Key=champion_key(client, file), Body=body)
    shown = bakeoff(settings, tmp_path, monkeypatch, "show").stdout
    assert "version 2 is majority" in shown
    assert "looks" not in shown
    assert [entry.state for entry in history(settings, client, NAME)] == ["champion", "was champion"]


def test_the_codes_hash_tells_every_module_and_template_of_the_project(root: Path, tmp_path: Path) -> None:
    files = ["serving/app.py", "deployments/up.py", "tasks/prompting/templates/plain.jinja", "tasks/reporting/templates/report.css"]
    found = {_code_sha256(tmp_path)}
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, tmp_path / file)
        found.add(_code_sha256(tmp_path))
        (tmp_path / file).write_text("touched")
        found.add(_code_sha256(tmp_path))
    assert len(found) == 1 + 2 * len(files)
    tracked = {path.suffix for path in (root / "tasks").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert tracked == CODE


def bakeoff(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """The command line in this process, its store the test's."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"dataset": "tiny.csv", "store": "direct"}))
    store = settings.stores["direct"]
    told = {"HOME": settings.home, "STORES__DIRECT__BUCKET": store.bucket, "STORES__DIRECT__PREFIX": store.prefix}
    for name, value in {**told, "STORES__DIRECT__ENDPOINT_URL": store.endpoint_url}.items():
        monkeypatch.setenv(f"BAKEOFF_{name}", str(value))
    command, *rest = words
    return CliRunner().invoke(main, ["champion", command, str(tmp_path / "tiny.yaml"), *rest])


def test_every_command_of_the_champion_speaks_text_and_json(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = settings, tmp_path, monkeypatch
    listed = bakeoff(*around, "list")
    assert listed.exit_code == 0, listed.output
    assert "       3  champion       third" in listed.stdout
    rolled = bakeoff(*around, "rollback", "--to", "1", "--reason", "too slow", "--output", "json")
    assert json.loads(rolled.stdout)["back_to"] == 1
    assert "goes back  to version 1" in bakeoff(*around, "show").stdout
    assert json.loads(bakeoff(*around, "list", "--output", "json").stdout)[0]["state"] == "champion"
    assert [each["name"] for each in json.loads(bakeoff(*around, "list", "--all", "--output", "json").stdout)] == [NAME]
    assert "note.txt: " in bakeoff(*around, "diff", "1", "2").stdout
    assert json.loads(bakeoff(*around, "diff", "1", "2", "--output", "json").stdout)["about"]["contender"] == ["first", "second"]
    assert "2 files are as they were published" in bakeoff(*around, "verify", "--all").stdout
    pruned = bakeoff(*around, "prune", "--keep", "1", "--output", "json")
    assert json.loads(pruned.stdout)["removed"] is False
    assert "0 contenders" in bakeoff(*around, "prune", "--yes").stdout


def test_a_users_mistake_ends_with_2_a_damaged_champion_with_1_and_neither_with_a_traceback(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = settings, tmp_path, monkeypatch
    for words in (
        ("rollback", "--to", "7", "--reason", "why"),
        ("rollback", "--to", "1"),
        ("rollback", "--to", "1", "--reason", ""),
        ("diff", "1", "7"),
        ("diff", "1"),
        ("prune", "--keep", "0"),
        ("list", "no_such_key=1"),
    ):
        done = bakeoff(*around, *words)
        assert done.exit_code == 2, (words, done.output)
        assert isinstance(done.exception, SystemExit)
    client.remove(client.key("contenders", three[2].sha256, "note.txt"))
    done = bakeoff(*around, "verify")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "version 3: " in done.stderr
    assert "bakeoff champion rollback CONFIG --to VERSION" in done.stderr


def test_a_rollback_through_a_store_that_fails_leaves_the_champion_and_goes_on_when_run_again(
    settings: Settings, client: StoreClient, three: list[ChampionVersion], places: LivePlaces, proxy: Proxy
) -> None:
    from tasks.store import open_store

    def refuse(method: str, path: str) -> tuple[int, bytes] | None:
        fails = method == "PUT" and path.endswith("champion.json")
        return (403, b"<Error><Code>ExpiredToken</Code></Error>") if fails else None

    proxy.answer = refuse
    with pytest.raises(StoreError, match="expired"):
        roll_back(settings, open_store(places, "proxied"), NAME, 1, "why")
    assert read_champion(settings, client, NAME) == three[2]
    proxy.answer = lambda method, path: None
    assert roll_back(settings, open_store(places, "proxied"), NAME, 1, "why").version == 4
    assert [entry.version for entry in history(settings, client, NAME)] == [4, 3, 2, 1]
    assert proxy.sent("contenders/") == 0
