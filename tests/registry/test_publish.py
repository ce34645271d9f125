import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from services.places import LivePlaces
from tasks.config import Trivial, load_config
from tasks.errors import IntegrityError, LostRace, StoreError
from tasks.manifest import FILE, ContenderManifest, read_manifest, write_manifest
from tasks.registry.champion import champion_contender, current_champion, fetch_contender, read_champion, show
from tasks.registry.publish import Publication, publish, sweep, upload_contender
from tasks.settings import Settings, Store
from tasks.store import StoreClient, open_store
from tasks.workspace import Workspace
from tests.registry.making import NAME, make_publication
from tests.registry.proxy import Proxy

BIG = {
    "name": "big",
    "arm": "tuned",
    "kind": "tuned",
    "labels": ["a", "b"],
    "inputs": ["text"],
    "fingerprint": "f",
    "dataset": "d",
    "occupies": "device",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def keys(client: StoreClient) -> list[str]:
    listed = client.client.list_objects_v2(Bucket=client.store.bucket)
    return sorted(entry["Key"] for entry in listed.get("Contents", []))


def test_a_published_contender_comes_back_and_is_champion(
    made: Path, places: LivePlaces, workspace: Workspace, client: StoreClient, settings: Settings
) -> None:
    publication = make_publication(made, places, "direct", Trivial.TFIDF)
    record = publish(publication, places, workspace)
    champion = read_champion(settings, client, NAME)
    assert champion
    assert champion.champion() == record.champion
    assert (champion.version, champion.previous, champion.contender) == (1, None, "tfidf")
    assert champion.uri == f"s3://{client.store.bucket}/team/a/contenders/{champion.sha256}"
    assert record.rows_verified == 40
    assert record.largest_logit_difference == 0.0
    assert record.uploaded_bytes > 0
    stored = keys(client)
    assert [key for key in stored if "champions/" in key] == [
        f"team/a/champions/{NAME}/champion.json",
        f"team/a/champions/{NAME}/v000001.json",
    ]
    contender = [key for key in stored if "contenders/" in key]
    assert len(contender) == record.files
    assert f"team/a/contenders/{champion.sha256}/README.md" in contender
    assert "version 1 is tfidf" in show(champion)


def test_publishing_again_is_reused_and_asks_the_store_nothing(
    made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy
) -> None:
    publication = make_publication(made, places, "proxied")
    current_champion(places, "proxied", NAME)
    first = publish(publication, places, workspace)
    proxy.requests.clear()
    again = publish(publication, places, workspace)
    assert again.reused
    assert again.champion == first.champion
    assert proxy.requests == []


def test_the_manifest_goes_up_last_and_the_pointer_after_the_round_trip(
    made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy
) -> None:
    publish(make_publication(made, places, "proxied"), places, workspace)
    puts = [path for method, path, _ in proxy.requests if method == "PUT" and "contenders/" in path]
    assert puts[-1].endswith(FILE)
    assert sum(path.endswith(FILE) for path in puts) == 1
    steps = [(method, path) for method, path, _ in proxy.requests]
    last_get = max(index for index, (method, path) in enumerate(steps) if method == "GET" and "contenders/" in path)
    assert steps.index(next(step for step in steps if step[0] == "PUT" and step[1].endswith("champion.json"))) > last_get


def test_the_next_champion_counts_up_and_names_the_one_before(
    made: Path, places: LivePlaces, workspace: Workspace, settings: Settings, client: StoreClient
) -> None:
    publish(make_publication(made, places, "direct", Trivial.TFIDF), places, workspace)
    first = current_champion(places, "direct", NAME)
    publish(make_publication(made, places, "direct", Trivial.MAJORITY, first), places, workspace)
    second = read_champion(settings, client, NAME)
    assert second
    assert (second.version, second.previous, second.contender) == (2, 1, "majority")


def test_corrupted_bytes_never_become_champion_and_a_rerun_sends_them_again(
    made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy, settings: Settings, client: StoreClient
) -> None:
    publication = make_publication(made, places, "proxied", Trivial.TFIDF)
    proxy.corrupt = ".safetensors"
    with pytest.raises(IntegrityError):
        publish(publication, places, workspace)
    assert read_champion(settings, client, NAME) is None
    proxy.corrupt = ""
    sent = proxy.sent("weights.safetensors")
    record = publish(publication, places, workspace)
    assert proxy.sent("weights.safetensors") > sent
    assert record.champion.version == 1


def test_a_replaced_manifest_is_refused(made: Path, tmp_path: Path, places: LivePlaces, client: StoreClient) -> None:
    folder = make_publication(made, places, "direct").winner.folder
    sha256, _ = upload_contender(client, folder)
    key = client.key("contenders", sha256, FILE)
    client.client.put_object(Bucket=client.store.bucket, Key=key, Body=(folder / FILE).read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="corrupted or replaced"):
        fetch_contender(client, sha256, tmp_path / "back")


@pytest.mark.parametrize("name", ["../../etc/passwd", "model.pkl", "/absolute", "pytorch_model.bin"])
def test_a_manifest_with_a_name_that_climbs_or_code_is_refused_and_nothing_is_fetched(
    made: Path, tmp_path: Path, client: StoreClient, places: LivePlaces, name: str
) -> None:
    import hashlib

    manifest = json.loads((make_publication(made, places, "direct").winner.folder / FILE).read_text())
    manifest["files"][name] = "0" * 64
    body = json.dumps(manifest).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    client.write_once(client.key("contenders", sha256, FILE), body)
    with pytest.raises(IntegrityError, match="malformed"):
        fetch_contender(client, sha256, tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(400, "ExpiredToken", "expired"), (500, "InternalError", "kept failing, 4 times"), (503, "SlowDown", "kept failing, 4 times")],
)
def test_a_store_that_loses_its_right_or_fails_in_mid_run_leaves_the_contender_and_a_rerun_goes_on(
    made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy, status: int, code: str, said: str
) -> None:
    refusal = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    publication = make_publication(made, places, "proxied", Trivial.TFIDF)
    proxy.answer = lambda method, path: (status, refusal) if method == "PUT" and path.endswith(FILE) else None
    with pytest.raises(StoreError, match=said) as caught:
        publish(publication, places, workspace)
    read_manifest(publication.winner.folder)
    assert f"tfidf is kept in {publication.winner.folder}, and this goes on from there: BAKEOFF_HOME=" in str(caught.value)
    command = shlex.split(str(caught.value).rpartition("from there: ")[2])
    assert command[-3:-1] == ["bakeoff", "run"]
    assert load_config(Path(command[-1])) == publication.config
    proxy.answer = lambda method, path: None
    sent = proxy.sent("weights.safetensors")
    publish(publication, places, workspace)
    assert proxy.sent("weights.safetensors") == sent


def test_two_publishers_at_once_have_one_winner_and_the_loser_is_told_who(
    made: Path, tmp_path: Path, places: LivePlaces, proxy: Proxy, settings: Settings, client: StoreClient
) -> None:
    gate = threading.Barrier(2, timeout=60)

    def meet(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("champion.json"):
            gate.wait()  # both have compared with the same champion, and move the pointer now

    publications = [make_publication(made, places, "proxied", kind) for kind in (Trivial.TFIDF, Trivial.MAJORITY)]
    proxy.before = meet
    outcomes: dict[str, object] = {}

    def run(publication: Publication) -> None:
        name = publication.winner.name
        try:
            outcomes[name] = publish(publication, places, Workspace(tmp_path / "workspace"))
        except LostRace as error:
            outcomes[name] = error

    threads = [threading.Thread(target=run, args=[publication]) for publication in publications]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = read_champion(settings, client, NAME)
    assert champion
    losers = [outcome for outcome in outcomes.values() if isinstance(outcome, LostRace)]
    assert len(losers) == 1
    assert not isinstance(outcomes[champion.contender], LostRace)
    assert f"({champion.contender}, published by" in str(losers[0])
    assert [key.rsplit("/", 1)[-1] for key in keys(client) if "/v0" in key] == ["v000001.json", "v000002.json"]
    proxy.before = lambda method, path: None
    loser = next(each for each in publications if each.winner.name != champion.contender)
    record = publish(replace(loser, previous=champion), places, Workspace(tmp_path / "workspace"))
    assert (record.champion.version, record.uploaded_bytes) == (3, 0)  # numbers taken by a lost race stay taken


def test_a_late_publisher_loses_before_it_uploads(made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy) -> None:
    publish(make_publication(made, places, "direct", Trivial.MAJORITY), places, workspace)
    late = make_publication(made, places, "proxied", Trivial.TFIDF)
    with pytest.raises(LostRace, match="is now version 1 \\(majority"):
        publish(late, places, workspace)
    assert proxy.sent("contenders/") == 0


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_upload_in_parts_shows_nothing_and_what_is_left_is_aborted_later(
    tmp_path: Path, proxy: Proxy, settings: Settings, client: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "contender"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(os.urandom(70 << 20))
    write_manifest(folder, ContenderManifest.model_validate(BIG))
    child: list[subprocess.Popen[bytes]] = []
    parts: list[str] = []

    def kill(method: str, path: str) -> None:
        parts.append(path)
        if method == "PUT" and len([each for each in parts if each.endswith(".safetensors")]) > 3:
            child[0].send_signal(signal.SIGKILL)
            child[0].wait()
            raise ConnectionAbortedError("the client is gone")

    proxy.before = kill
    code = (
        "import sys; from pathlib import Path; from services.places import LivePlaces; from tasks.registry.publish import *\n"
        "from tasks.settings import load_settings\n"
        "upload_contender(open_store(LivePlaces(load_settings()), 'proxied'), Path(sys.argv[1]))"
    )
    child.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], env=_environment(proxy, settings)))
    assert child[0].wait(120) == -signal.SIGKILL
    assert keys(client) == []
    sweep(client)
    left = client.orphans("contenders", older_s=0)
    assert len(left) == 1  # young: somebody may be at it
    monkeypatch.setattr("tasks.store.ORPHANED_S", 0)
    sweep(client)
    assert client.orphans("contenders", older_s=0) == []
    proxy.before = lambda method, path: None
    upload_contender(client, folder)
    assert len(keys(client)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("point", ["v000002.json", "champion.json"])
def test_a_kill_between_upload_and_move_leaves_the_old_champion_and_the_rerun_uploads_nothing_again(
    made: Path,
    tmp_path: Path,
    places: LivePlaces,
    workspace: Workspace,
    proxy: Proxy,
    settings: Settings,
    client: StoreClient,
    point: str,
) -> None:
    publish(make_publication(made, places, "direct", Trivial.MAJORITY), places, workspace)
    old = read_champion(settings, client, NAME)
    make_publication(made, places, "proxied", Trivial.TFIDF)  # made here, so that the child only publishes
    child: list[subprocess.Popen[bytes]] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(point):
            child[0].send_signal(signal.SIGKILL)
            child[0].wait()
            raise ConnectionAbortedError("the client is gone")

    proxy.before = kill
    child.append(_publisher(made, tmp_path, proxy, settings))
    assert child[0].wait(120) == -signal.SIGKILL
    assert read_champion(settings, client, NAME) == old
    sent = proxy.sent("contenders/")
    assert sent > 0
    proxy.before = lambda method, path: None
    assert _publisher(made, tmp_path, proxy, settings).wait(120) == 0
    assert proxy.sent("contenders/") == sent
    new = read_champion(settings, client, NAME)
    assert new
    assert old
    assert (new.contender, new.previous) == ("tfidf", old.version)


def test_a_pointer_that_moved_though_its_answer_was_lost_counts_as_moved(
    made: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy, client: StoreClient
) -> None:
    publication = make_publication(made, places, "proxied")
    lost: list[str] = []

    def lose(method: str, path: str) -> tuple[int, bytes] | None:
        if method == "PUT" and path.endswith("champion.json") and not lost:
            lost.append(path)
            record = client.read(client.key("champions", NAME, "v000001.json"))
            assert record
            client.write_once(client.key("champions", NAME, "champion.json"), record[0])
            return 500, b"<Error><Code>InternalError</Code></Error>"
        return None

    proxy.answer = lose
    assert publish(publication, places, workspace).champion.version == 1


def test_an_older_pointer_served_again_is_refused(
    made: Path, places: LivePlaces, workspace: Workspace, settings: Settings, client: StoreClient
) -> None:
    publish(make_publication(made, places, "direct", Trivial.MAJORITY), places, workspace)
    key = client.key("champions", NAME, "champion.json")
    old = client.read(key)
    assert old
    first = current_champion(places, "direct", NAME)
    publish(make_publication(made, places, "direct", Trivial.TFIDF, first), places, workspace)
    client.client.put_object(Bucket=client.store.bucket, Key=key, Body=old[0])
    with pytest.raises(IntegrityError, match="version 2 was seen before"):
        current_champion(places, "direct", NAME)
    client.client.delete_object(Bucket=client.store.bucket, Key=key)
    file = settings.home / "champions" / "direct" / f"{NAME}.json"
    with pytest.raises(IntegrityError, match=f"points champion 'tiny' to nothing.*remove {file}"):
        read_champion(settings, client, NAME)
    file.unlink()  # as the message says
    assert read_champion(settings, client, NAME) is None
    record = publish(make_publication(made, places, "direct", Trivial.MAJORITY), places, workspace)
    assert not record.reused
    assert read_champion(settings, client, NAME) is not None


def test_the_champion_can_be_evaluated_anew_and_is_fetched_once(
    made: Path, tmp_path: Path, places: LivePlaces, workspace: Workspace, proxy: Proxy
) -> None:
    assert champion_contender(places, "proxied", NAME, workspace) is None
    publication = make_publication(made, places, "proxied")
    publish(publication, places, workspace)
    elsewhere = Workspace(tmp_path / "another machine")
    champion = champion_contender(places, "proxied", NAME, elsewhere)
    assert champion
    assert (champion.name, champion.kind, champion.fingerprint) == ("majority", "majority", publication.winner.fingerprint)
    read_manifest(champion.folder)
    proxy.requests.clear()
    again = champion_contender(places, "proxied", NAME, elsewhere)
    assert again
    assert again.reused
    assert [path.rsplit("/", 1)[-1] for _, path, _ in proxy.requests] == ["champion.json"]


def test_the_embedded_store_is_not_started_to_learn_that_nothing_changed(made: Path, tmp_path: Path, workspace: Workspace) -> None:
    local = Settings(home=tmp_path / "home", stores={"local": Store(service="s3", bucket="bakeoff", create=True)})
    with LivePlaces(local) as places:
        assert current_champion(places, "local", NAME) is None
        record = publish(make_publication(made, places, "local"), places, workspace)
    with LivePlaces(local) as places:
        champion = current_champion(places, "local", NAME)
        assert champion
        assert champion.champion() == record.champion
        assert places._started == {}
    with LivePlaces(local) as places:
        assert read_champion(local, open_store(places, "local"), NAME) == champion  # and it is what the store says


def test_no_secret_is_in_the_store_or_in_the_memory(
    made: Path, tmp_path: Path, places: LivePlaces, workspace: Workspace, client: StoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="tasks")
    publish(make_publication(made, places, "direct"), places, workspace)
    canary = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for key in keys(client):
        assert canary not in (client.read(key) or (b"", ""))[0]
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or canary not in file.read_bytes()
    assert canary.decode() not in caplog.text


def test_the_card_is_a_model_card_that_shows_names_as_they_are(
    made: Path, places: LivePlaces, workspace: Workspace, client: StoreClient
) -> None:
    from huggingface_hub import ModelCard

    record = publish(make_publication(made, places, "direct"), places, workspace)
    text = (client.read(client.key("contenders", record.champion.sha256, "README.md")) or (b"", ""))[0].decode()
    card = ModelCard(text)
    head = card.data.to_dict()
    assert yaml.safe_dump(head)
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "negative, positive" in text
    assert "run-1" not in text


def _publisher(made: Path, root: Path, proxy: Proxy, settings: Settings) -> "subprocess.Popen[bytes]":
    """A process that publishes the TF-IDF contender through the proxy."""
    command = [sys.executable, "-m", "tests.registry.making", str(made), str(root / "workspace"), "proxied", "tfidf"]
    return subprocess.Popen(command, env=_environment(proxy, settings))


def _environment(proxy: Proxy, settings: Settings) -> dict[str, str]:
    store = settings.stores["proxied"]
    return {
        **os.environ,
        "BAKEOFF_HOME": str(settings.home),
        "BAKEOFF_STORES__PROXIED__BUCKET": store.bucket,
        "BAKEOFF_STORES__PROXIED__PREFIX": store.prefix,
        "BAKEOFF_STORES__PROXIED__ENDPOINT_URL": proxy.url,
        "OMP_NUM_THREADS": "1",
    }
