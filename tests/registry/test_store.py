import hashlib
import http.server
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.places import LivePlaces
from services.s3 import LocalS3
from tasks.errors import BadConfig, IntegrityError, StoreError
from tasks.settings import Settings, Store
from tasks.store import SLOWEST, StoreClient, check_store, connect, open_store
from tests.live import credentials
from tests.registry.proxy import Proxy


def error_xml(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def test_the_check_passes_on_a_real_store_again_and_again(places: LivePlaces) -> None:
    check_store(places, "direct")
    check_store(places, "direct")


def test_a_missing_bucket_is_refused_with_what_to_do_or_made_where_the_settings_say_so(s3_server: LocalS3, proxy: Proxy) -> None:
    made: list[str] = []

    def as_on_aws(method: str, path: str) -> tuple[int, bytes] | None:
        """Seaweedfs makes a bucket by itself when something is put into it."""
        if method == "PUT" and path.count("/") == 1:
            made.append(path)
        return None if made else (404, error_xml("NoSuchBucket"))

    proxy.answer = as_on_aws
    store = Store(bucket="there-is-none", endpoint_url=proxy.url)
    with pytest.raises(StoreError, match=r"there-is-none.*NoSuchBucket.*create: true"):
        connect("aws", store, credentials(s3_server)).check()
    connect("local", store.model_copy(update={"create": True}), credentials(s3_server)).check()
    assert made == ["/there-is-none"]


def test_wrong_keys_are_refused_before_anything_and_without_showing_them(s3_server: LocalS3, bucket: str) -> None:
    store = Store(bucket=bucket, endpoint_url=s3_server.endpoint_url)
    for key, secret in ((s3_server.access_key, "wrong-canary"), ("nobody", "wrong-canary")):
        extra = {"aws_access_key_id": key, "aws_secret_access_key": secret}
        with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID") as caught:
            connect("aws", store, extra).check()
        assert "wrong-canary" not in "".join(traceback.format_exception(caught.value))


def test_missing_credentials_are_named(s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = Store(bucket=bucket, endpoint_url=s3_server.endpoint_url)
    with pytest.raises(StoreError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        connect("aws", store).check()
    with pytest.raises(BadConfig, match="nobody"):
        connect("aws", store.model_copy(update={"profile": "nobody"}))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredToken", "expired: sign in again"),
        ("AccessDenied", "allow s3:GetObject, s3:PutObject"),
        ("RequestTimeTooSkewed", "clock is off"),
        ("SomethingNew", "answered SomethingNew"),
    ],
)
def test_what_a_store_refuses_is_said_plainly(places: LivePlaces, proxy: Proxy, code: str, said: str) -> None:
    proxy.answer = lambda method, path: (403, error_xml(code))
    with pytest.raises(StoreError, match=said):
        check_store(places, "proxied")


def test_a_clock_two_hours_off_is_called_a_clock(places: LivePlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.auth

    real = botocore.auth.get_current_datetime
    from datetime import timedelta

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kw: real(*args, **kw) - timedelta(hours=2))
    with pytest.raises(StoreError, match="clock"):
        check_store(places, "direct")


def test_a_store_out_of_reach_is_an_error_that_says_so(s3_server: LocalS3) -> None:
    store = Store(bucket="anything", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1.*cannot be reached"):
        connect("aws", store, credentials(s3_server)).check()


def test_a_store_that_ignores_conditions_is_refused(places: LivePlaces, proxy: Proxy) -> None:
    proxy.strip_conditions = True
    with pytest.raises(StoreError, match="ignores conditional writes"):
        check_store(places, "proxied")


def test_a_first_write_happens_once_and_a_replacement_needs_the_etag(client: StoreClient) -> None:
    assert client.write_once("k", b"1")
    assert not client.write_once("k", b"2")
    _, etag = client.read("k") or (b"", "")
    assert client.replace("k", b"3", etag)
    assert not client.replace("k", b"4", etag)
    assert not client.replace("gone", b"4", etag)
    assert (client.read("k") or (b"", ""))[0] == b"3"


@pytest.mark.parametrize("size", [1, 40 << 20], ids=["one piece", "in parts"])
def test_a_file_that_is_there_is_not_sent_again_and_a_changed_one_is(client: StoreClient, tmp_path: Path, size: int) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(os.urandom(size))
    first = hashlib.sha256(file.read_bytes()).hexdigest()
    moved: list[int] = []
    assert client.upload(file, "w", first, moved.append) == size
    assert client.upload(file, "w", first, moved.append) == 0
    assert sum(moved) == 2 * size
    assert client.upload(file, "w", first, moved.append, again=True) == size
    file.write_bytes(os.urandom(size) + b"x")
    assert client.upload(file, "w", hashlib.sha256(file.read_bytes()).hexdigest(), moved.append) == size + 1
    client.download("w", tmp_path / "back", moved.append)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_bytes_corrupted_on_the_way_down_are_noticed(places: LivePlaces, proxy: Proxy, tmp_path: Path) -> None:
    client = open_store(places, "proxied")
    (tmp_path / "f").write_bytes(b"true bytes")
    client.upload(tmp_path / "f", "f", hashlib.sha256(b"true bytes").hexdigest(), lambda _: None)
    proxy.corrupt = "/f"
    with pytest.raises(IntegrityError, match="corrupted on the way"):
        client.download("f", tmp_path / "g", lambda _: None)


def test_a_prefix_that_climbs_is_refused() -> None:
    with pytest.raises(BadConfig, match="prefix"):
        connect("aws", Store(bucket="bucket", prefix="a/../b"))


def test_the_address_comes_from_the_environment_where_the_settings_have_none(
    s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    connect("aws", Store(bucket=bucket)).check()


def test_a_store_that_ignores_conditions_is_taken_where_one_publisher_only_is_promised_and_keeps_what_was_written_once(
    settings: Settings, proxy: Proxy, caplog: pytest.LogCaptureFixture, s3_server: LocalS3
) -> None:
    alone = settings.stores["proxied"].model_copy(update={"single_writer": True})
    proxy.strip_conditions = True
    client = connect("proxied", alone, credentials(s3_server))
    client.check()
    assert "ignores conditional writes" in caplog.text
    assert client.write_once("k", b"1")
    assert not client.write_once("k", b"2")
    _, etag = client.read("k") or (b"", "")
    assert client.replace("k", b"3", etag)
    assert not client.replace("k", b"4", etag)
    assert (client.read("k") or (b"", ""))[0] == b"3"


def test_in_a_bucket_with_versions_conditions_hold_and_what_was_removed_can_be_written_again(client: StoreClient) -> None:
    enabled = {"Status": "Enabled"}
    client.client.put_bucket_versioning(Bucket=client.store.bucket, VersioningConfiguration=enabled)
    client.check()
    assert client.write_once("k", b"1")
    assert not client.write_once("k", b"2")
    _, etag = client.read("k") or (b"", "")
    assert client.replace("k", b"2", etag)
    assert not client.replace("k", b"3", etag)
    client.remove("k")
    assert client.read("k") is None
    assert client.write_once("k", b"4")
    assert len(client.client.list_object_versions(Bucket=client.store.bucket, Prefix="k")["Versions"]) == 3


@pytest.mark.parametrize(("encryption", "key"), [("AES256", ""), ("aws:kms", "team-key")])
def test_everything_is_sent_with_the_encryption_of_the_settings(
    settings: Settings, s3_server: LocalS3, tmp_path: Path, encryption: str, key: str
) -> None:
    store = settings.stores["direct"].model_copy(update={"encryption": encryption, "kms_key": key})
    client = connect("direct", store, credentials(s3_server))
    client.check()
    client.write_once("small", b"1")
    for name, size in (("one", 10), ("parts", 40 << 20)):
        (tmp_path / name).write_bytes(os.urandom(size))
        client.upload(tmp_path / name, name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), lambda _: None)
        client.download(name, tmp_path / "back", lambda _: None)
        assert (tmp_path / "back").read_bytes() == (tmp_path / name).read_bytes()
    for name in ("small", "one", "parts"):
        found = client.client.head_object(Bucket=store.bucket, Key=name)
        assert found["ServerSideEncryption"] == encryption
        assert found.get("SSEKMSKeyId", "") == key


def test_a_kms_key_without_kms_is_refused() -> None:
    with pytest.raises(ValueError, match="encryption is not aws:kms"):
        Store(bucket="bucket", kms_key="team-key")
    with pytest.raises(ValueError, match="the embedded one has not"):
        Store(service="s3", bucket="bucket", encryption="aws:kms")


@pytest.mark.parametrize("how", ["silence", "dribble"])
def test_a_store_that_stalls_is_given_up_at_the_deadline_of_the_settings(
    settings: Settings, proxy: Proxy, s3_server: LocalS3, client: StoreClient, tmp_path: Path, how: str
) -> None:
    over = threading.Event()
    client.write_once(client.key("thing.json"), bytes(1000))
    hasty = settings.stores["proxied"].model_copy(update={"deadline_s": 0.5})
    stalled = connect("proxied", hasty, credentials(s3_server))
    if how == "silence":
        proxy.before = lambda method, path: over.wait(60) and None
    else:
        proxy.dribble = "thing.json"
    with pytest.raises(StoreError, match=r"cannot read \S*thing.json: it stalls, and 0.5 s have passed .*what was made is kept"):
        stalled.read(stalled.key("thing.json"))
    with pytest.raises(StoreError, match="it stalls"):
        stalled.download(stalled.key("thing.json"), tmp_path / "thing", lambda _: None)
    over.set()


def test_every_byte_that_moves_puts_the_deadline_off(client: StoreClient) -> None:
    hasty = replace(client, store=client.store.model_copy(update={"deadline_s": 0.2}))

    def transfer(told: Callable[[int], None]) -> None:
        told(100 * SLOWEST)  # worth 100 s
        time.sleep(0.5)

    moved: list[int] = []
    hasty._moving(transfer, moved.append)
    assert moved == [100 * SLOWEST]


def test_bytes_corrupted_on_the_way_up_are_refused_and_never_there(places: LivePlaces, proxy: Proxy, tmp_path: Path) -> None:
    client = open_store(places, "proxied")
    (tmp_path / "f").write_bytes(b"true bytes")
    proxy.corrupt_sent = "/f"
    with pytest.raises(StoreError):
        client.upload(tmp_path / "f", "f", hashlib.sha256(b"true bytes").hexdigest(), lambda _: None)
    assert not client.exists("f")


def test_what_is_not_what_was_sent_is_named_by_its_whole_address(
    client: StoreClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"true bytes")
    monkeypatch.setattr(StoreClient, "_has", lambda *_: False)  # as where the store changed it later
    with pytest.raises(IntegrityError, match=f"^s3://{client.store.bucket}/team/a/folder/f is not what was sent"):
        client.upload(tmp_path / "f", client.key("folder", "f"), hashlib.sha256(b"true bytes").hexdigest(), lambda _: None)


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
def test_a_burst_of_500_or_503_is_retried_and_a_lasting_one_is_an_error(
    places: LivePlaces, proxy: Proxy, status: int, code: str
) -> None:
    client, left = open_store(places, "proxied"), [2]

    def busy(method: str, path: str) -> tuple[int, bytes] | None:
        left[0] -= 1
        return (status, error_xml(code)) if left[0] >= 0 else None

    proxy.answer = busy
    assert client.write_once("k", b"1")
    left[0] = 1000
    with pytest.raises(StoreError, match="kept failing, 4 times: what was made is kept"):
        client.write_once("k2", b"1")


def test_uploads_in_parts_that_nobody_ends_are_found_by_the_stores_clock_and_aborted(client: StoreClient) -> None:
    bucket, key = client.store.bucket, client.key("contenders", "a" * 64, "weights.safetensors")
    upload = client.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    client.client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=bytes(5 << 20))
    assert not client.exists(key)
    assert client.orphans("contenders") == []  # somebody may be at it
    assert client.orphans("contenders", older_s=0) == [(key, upload)]
    client.abort(key, upload)
    client.abort(key, upload)
    assert client.orphans("contenders", older_s=0) == []


@contextmanager
def metadata(credentials: dict[str, str]) -> Iterator[str]:
    """A metadata service on loopback, as instances and containers have: it gives credentials for a while."""
    given = json.dumps(
        {
            "Code": "Success",
            "AccessKeyId": credentials["aws_access_key_id"],
            "SecretAccessKey": credentials["aws_secret_access_key"],
            "Token": "",
            "Expiration": "2099-01-01T00:00:00Z",
        }
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = {"token": "a-token", "": "role"}.get(self.path.rsplit("/", 1)[-1], given).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("source", ["environment", "profile", "process", "container", "instance"])
def test_credentials_come_from_wherever_boto3_looks_for_them(
    s3_server: LocalS3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    keys = credentials(s3_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false" if source == "instance" else "true")
    store = Store(bucket=bucket, endpoint_url=s3_server.endpoint_url, region="us-east-1")
    two = f"aws_access_key_id = {keys['aws_access_key_id']}\naws_secret_access_key = {keys['aws_secret_access_key']}\n"
    with metadata(keys) as url:
        if source == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["aws_access_key_id"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["aws_secret_access_key"])
        elif source == "profile":
            (tmp_path / "credentials").write_text(f"[team]\n{two}")
            store = store.model_copy(update={"profile": "team"})
        elif source == "process":
            told = {"Version": 1, "AccessKeyId": keys["aws_access_key_id"], "SecretAccessKey": keys["aws_secret_access_key"]}
            (tmp_path / "told.json").write_text(json.dumps(told))
            command = f"{sys.executable} -c \"print(open('{tmp_path / 'told.json'}').read())\""
            (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
        elif source == "container":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        else:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        connect("aws", store).check()
