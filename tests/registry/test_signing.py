"""Keys, signatures and what is believed, by model-signing on a real S3 server."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from services.places import LivePlaces
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FILE
from tasks.registry.champion import champion_contender, fetch_contender, read_champion
from tasks.registry.history import sign_version
from tasks.registry.prune import prune
from tasks.registry.publish import publish, upload_contender
from tasks.registry.signing import check_keys, key_id, signatures
from tasks.registry.stage import find_champion
from tasks.settings import Settings, SharedWorkspace, Store
from tasks.store import StoreClient, open_store
from tasks.workspace import Workspace
from tests.registry.making import NAME, make_publication

PASSWORD = "not on the disk"


def make_key(folder: Path, name: str, password: str = "", key: Any = None) -> dict[str, str]:
    """The files of a pair of keys, as a store's settings name them."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return {"signing_key": str(private), "verifying_key": str(public)}


@pytest.fixture
def ours(tmp_path: Path) -> dict[str, str]:
    return make_key(tmp_path, "ours")


@pytest.fixture
def config() -> BakeoffConfig:
    given = {"name": NAME, "dataset": {"source": "rows.csv"}, "store": "direct", "trivial": ["majority"]}
    return BakeoffConfig.model_validate(given)


@pytest.fixture
def opened(settings: Settings, s3_server: Any) -> Any:
    """Places and a client in which the store `direct` has further settings."""

    @contextmanager
    def open_places(**changes: str) -> Iterator[tuple[LivePlaces, StoreClient]]:
        stores = {"direct": settings.stores["direct"].model_copy(update=changes)}
        with LivePlaces(settings.model_copy(update={"stores": stores})) as places:
            yield places, open_store(places, "direct")

    return open_places


def test_what_is_published_is_signed_once_and_loads_where_the_key_is_believed(
    made: Path, tmp_path: Path, opened: Any, ours: dict[str, str]
) -> None:
    with opened(**ours) as (places, client):
        published = publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "workspace"))
        sha256 = published.champion.sha256
        believed = key_id("direct", client.store)
        assert signatures(client, sha256) == [client.key("signatures", sha256, f"{believed}.sigstore.json")]
        before = client.read(signatures(client, sha256)[0])
        publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "another"))
        assert client.read(signatures(client, sha256)[0]) == before
    with opened(verifying_key=ours["verifying_key"]) as (places, _):
        found = champion_contender(places, "direct", NAME, Workspace(tmp_path / "elsewhere"))
        assert found
        assert found.name == "majority"


def test_anyone_can_check_the_signature_with_the_public_tool(made: Path, tmp_path: Path, opened: Any, ours: dict[str, str]) -> None:
    with opened(**ours) as (places, client):
        sha256 = publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "workspace")).champion.sha256
        fetch_contender(client, sha256, tmp_path / "there")
        found = client.read(signatures(client, sha256)[0])
    assert found
    (tmp_path / "signature").write_bytes(found[0])
    given = ["--signature", str(tmp_path / "signature"), "--public_key", ours["verifying_key"], str(tmp_path / "there")]
    command = [sys.executable, "-m", "model_signing", "verify", "key", *given]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "there" / FILE).write_bytes(b"{}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_what_nobody_signed_or_somebody_else_did_is_not_loaded(
    made: Path, tmp_path: Path, opened: Any, ours: dict[str, str], settings: Settings
) -> None:
    theirs = make_key(tmp_path, "theirs")
    with opened() as (places, client):
        sha256 = publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "workspace")).champion.sha256
        assert signatures(client, sha256) == []
        champion_contender(places, "direct", NAME, Workspace(tmp_path / "cached"))
    with opened(signing_key=theirs["signing_key"]) as (places, client):
        sign_version(client, NAME, sha256)
        assert len(signatures(client, sha256)) == 1
    refused = pytest.raises(IntegrityError, match=r"is not signed by .*ours\.pub")
    with opened(verifying_key=ours["verifying_key"]) as (places, _), refused:
        champion_contender(places, "direct", NAME, Workspace(tmp_path / "cached"))
    with opened(**ours) as (places, client):
        assert sign_version(client, NAME, sha256).version == 1
        with pytest.raises(BadConfig, match="no version of champion"):
            sign_version(client, NAME, 64 * "0")
        assert champion_contender(places, "direct", NAME, Workspace(tmp_path / "cached"))


def test_a_signature_that_was_replaced_or_is_of_other_bytes_does_not_hold(
    made: Path, tmp_path: Path, opened: Any, ours: dict[str, str]
) -> None:
    with opened(**ours) as (places, client):
        publication = make_publication(made, places, "direct")
        sha256 = publish(publication, places, Workspace(tmp_path / "workspace")).champion.sha256
        other, _ = upload_contender(client, publication.winner.folder)
        [good] = signatures(client, sha256)
        whole = client.read(good)
        assert whole
        client.write(client.key("signatures", other, good.rsplit("/", 1)[-1]), whole[0])
        with pytest.raises(IntegrityError, match=f"signature of .*{other} does not hold"):
            fetch_contender(client, other, tmp_path / "other")
        for number, broken in enumerate((b"", b"{}", whole[0][:-200], whole[0].replace(b'"sig":"', b'"sig":"AAAA'))):
            client.write(good, broken)
            with pytest.raises(IntegrityError, match="does not hold"):
                fetch_contender(client, sha256, tmp_path / f"broken-{number}")
        sign_version(client, NAME, sha256)
        assert fetch_contender(client, sha256, tmp_path / "mended").name == "majority"


def test_a_key_that_cannot_be_used_is_found_out_before_anything_is_spent(
    tmp_path: Path, opened: Any, ours: dict[str, str], config: BakeoffConfig
) -> None:
    locked = make_key(tmp_path, "locked", PASSWORD)
    other = make_key(tmp_path, "edwards", key=ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "no.pem").write_text("not a key")
    for keys, said in (
        ({"signing_key": str(tmp_path / "gone.pem")}, r"signing_key .*gone\.pem cannot be read"),
        ({"signing_key": str(tmp_path / "no.pem")}, r"signing_key .*no\.pem cannot be read"),
        ({"signing_key": locked["signing_key"]}, "[Pp]assword"),
        ({"verifying_key": other["verifying_key"]}, "is of .*Ed25519.*secp256r1"),
        ({"verifying_key": ours["verifying_key"]}, "nothing could be published.*set signing_key"),
        ({**ours, "verifying_key": locked["verifying_key"]}, "nothing could be published.*set signing_key"),
    ):
        with opened(**keys) as (places, _), pytest.raises(BadConfig, match=said):
            find_champion.fn(config, "run", places)


def test_a_key_with_a_password_signs(made: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_PASSWORD", PASSWORD)
    locked = make_key(tmp_path, "locked", PASSWORD)
    check_keys("direct", Store(bucket="some", signing_password_env="KEY_PASSWORD", **locked), publishes=True)
    with opened(signing_password_env="KEY_PASSWORD", **locked) as (places, client):
        published = publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "workspace"))
        assert len(signatures(client, published.champion.sha256)) == 1


def test_what_a_shared_workspace_holds_is_not_signed(opened: Any, ours: dict[str, str], config: BakeoffConfig) -> None:
    with opened(**ours) as (places, _):
        places.settings = places.settings.model_copy(update={"workspace": SharedWorkspace(store="direct")})
        with pytest.raises(BadConfig, match="shared through store 'direct', whose products nobody signs"):
            find_champion.fn(config, "run", places)


def test_a_prune_removes_the_signatures_of_what_it_removes(
    made: Path, tmp_path: Path, opened: Any, ours: dict[str, str], settings: Settings
) -> None:
    with opened(**ours) as (places, client):
        kept = publish(make_publication(made, places, "direct"), places, Workspace(tmp_path / "workspace")).champion.sha256
        left, _ = upload_contender(client, make_publication(made, places, "direct").winner.folder)
        client.write(client.key("signatures", left, "some.sigstore.json"), b"{}")
        pruned = prune(places.settings, client, really=True, grace_s=0)
        assert [each.sha256 for each in pruned.contenders] == [left]
        assert signatures(client, left) == []
        assert len(signatures(client, kept)) == 1
        assert read_champion(places.settings, client, NAME)
