"""A bucket on S3, or on a server that speaks its protocol: conditional writes, checked uploads, and errors that say what to do.

Retries are botocore's alone. Credentials come from boto3's own chain unless the embedded server brings its own.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tasks.errors import BadConfig, IntegrityError, StoreError
from tasks.settings import Places, Store

logger = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
CONNECT_S = 5
READ_S = 20
"""One attempt waits this long for bytes; the store's `deadline_s` holds for all attempts together."""
SLOWEST = 128 << 10
"""Bytes a second: a transfer that is slower stalls, and meets the deadline."""
ORPHANED_S = 24 * 3600
"""An upload in parts that began so long ago, by the store's clock, has no uploader any more."""
MULTIPART_BYTES = 32 << 20
"""Larger files go up in parts. Below it the store vouches for the whole file's SHA-256; above it only for the parts'."""
CONFLICTS = 5
"""How often a conditional write is sent again when the store answers 409 (another one was under way)."""

_MISSING = {"NoSuchKey", "404", "NotFound"}
_REFUSED = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409"}
_REGION = "the bucket lies in another region: set the store's region, or AWS_REGION"
_EXPIRED = "the credentials have expired: sign in again (such as `aws sso login`) or renew the token"
_KEY = "the store does not accept this access key or its secret: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_RIGHTS = "the credentials have no right to it: allow s3:GetObject, s3:PutObject and s3:ListBucket on this bucket and prefix"
_UNSAID = (
    "it refuses without saying why: the credentials have no right to it (s3:GetObject, s3:PutObject and s3:ListBucket on this "
    "bucket and prefix), have expired, or this machine's clock is off"
)
_DOWN = f"it kept failing, {ATTEMPTS} times: what was made is kept, so run again when the store is well"
ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or set `create: true` for the store",
    "AccessDenied": _RIGHTS,
    "Forbidden": _RIGHTS,
    "403": _UNSAID,  # a HEAD has no body
    "AllAccessDisabled": _RIGHTS,
    "InvalidAccessKeyId": _KEY,
    "SignatureDoesNotMatch": _KEY,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is off from the store's by more than it allows: set the clock",
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InternalError": _DOWN,
    "ServiceUnavailable": _DOWN,
    "SlowDown": _DOWN,
    "500": _DOWN,
    "503": _DOWN,
    "QuotaExceeded": "the store is full: free some space",
    "507": "the store is full: free some space",
}


class Stored(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    age_s: float
    """By the store's clock."""


class Seen(NamedTuple):
    """A small object, as it was just read."""

    body: bytes
    etag: str
    age_s: float
    """Since it was written, by the store's clock."""


@dataclass(frozen=True)
class StoreClient:
    """An open store."""

    name: str
    """Its name in the settings."""
    store: Store
    client: Any
    """The boto3 client."""

    def key(self, *parts: str) -> str:
        """The key of an object, the store's prefix before it."""
        return "/".join([*filter(None, self.store.prefix.split("/")), *parts])

    def uri(self, *parts: str) -> str:
        """The same as an `s3://` address."""
        return f"s3://{self.store.bucket}/{self.key(*parts)}"

    def check(self) -> None:
        """Prove that objects can be written, read, and written on condition, before anything is spent; make the bucket where the
        store's settings say so.

        Raises:
            StoreError: no bucket, no right, expired, the clock is off, out of reach, or conditional writes are ignored.
        """
        try:
            self._probe()
        except _NoBucket:
            if not self.store.create:
                raise
            self._create_bucket()
            self._probe()

    def read(self, key: str) -> tuple[bytes, str] | None:
        """An object's bytes and ETag; None where there is no such object."""

        def get() -> tuple[bytes, str]:
            answer = self.client.get_object(Bucket=self.store.bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]

        with self._faults(f"read {key}"):
            try:
                return self._timed(get)
            except self.client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def look(self, key: str) -> Seen | None:
        """An object with its ETag and age; None where there is no such object."""

        def get() -> Seen:
            answer = self.client.get_object(Bucket=self.store.bucket, Key=key)
            return Seen(answer["Body"].read(), answer["ETag"], (_date(answer) - answer["LastModified"]).total_seconds())

        with self._faults(f"read {key}"):
            try:
                return self._timed(get)
            except self.client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def write(self, key: str, body: bytes) -> None:
        """Write an object, whatever is there."""
        self._write_if(key, body)

    def put_if(self, key: str, body: bytes, etag: str | None) -> str | None:
        """Write an object over the one that has this ETag; where that is None, unless there is one.

        Returns: its new ETag; None where another one is there, or none. A body that nobody else writes is told from theirs, also
        where only the answer to an earlier attempt was lost.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        written = self._write_if(key, body, **condition)
        if written:
            return written
        there = self.read(key)
        return there[1] if there and there[0] == body else None

    def write_once(self, key: str, body: bytes) -> bool:
        """Write an object unless there is one. Returns whether this call wrote it."""
        if self.store.single_writer and self.read(key) is not None:  # the store need not know the condition
            return False
        return bool(self._write_if(key, body, IfNoneMatch="*"))

    def replace(self, key: str, body: bytes, etag: str) -> bool:
        """Write over the object that has this ETag. Returns False where it has another by now, or is gone."""
        if self.store.single_writer and (self.read(key) or (b"", ""))[1] != etag:
            return False
        return bool(self._write_if(key, body, IfMatch=etag))

    def upload(self, path: Path, key: str, sha256: str, moved: Callable[[int], None], again: bool = False) -> int:
        """Copy a file up, unless the same bytes are there. Returns the number of bytes sent.

        Args:
            sha256: the file's SHA-256 (hex).
            moved: told the size of every piece that went (less than 0 when a piece is sent again), from several threads.
            again: send it even if the store says that it has it.
        """
        size = path.stat().st_size
        if not again and self._has(key, size, sha256):
            moved(size)
            return 0
        extra = {
            "ChecksumAlgorithm": "SHA256",
            "ContentType": _content_type(path),
            "Metadata": {"sha256": sha256},
            **self._sealed(),
        }

        def put(told: Callable[[int], None]) -> None:
            self.client.upload_file(str(path), self.store.bucket, key, ExtraArgs=extra, Callback=told, Config=_transfer())

        with self._faults(f"write {key}"):
            self._moving(put, moved)
        if not self._has(key, size, sha256):
            raise IntegrityError(f"s3://{self.store.bucket}/{key} is not what was sent (SHA-256 {sha256}): publish again")
        return size

    def download(self, key: str, path: Path, moved: Callable[[int], None]) -> None:
        """Copy an object down. Its bytes are the caller's to check.

        Raises:
            IntegrityError: the object is missing, or its bytes are not those that the store itself vouches for.
        """
        path.parent.mkdir(parents=True, exist_ok=True)

        def get(told: Callable[[int], None]) -> None:
            self.client.download_file(self.store.bucket, key, str(path), Callback=told, Config=_transfer())

        with self._faults(f"read {key}"):
            try:
                self._moving(get, moved)
            except self.client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    raise IntegrityError(f"store {self.name!r} has no {key}: what was published there is not whole") from None
                raise

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self._head(key) is not None

    def listed(self, *parts: str) -> list[Stored]:
        """The objects under a folder of the store, by key."""
        found: list[Stored] = []
        for page in self._pages("list_objects_v2", f"{self.key(*parts)}/"):
            now = _date(page)
            found += [
                Stored(entry["Key"], entry["Size"], (now - entry["LastModified"]).total_seconds())
                for entry in page.get("Contents", [])
            ]
        return sorted(found)

    def remove(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with self._faults(f"remove {key}"):
            self._timed(lambda: self.client.delete_object(Bucket=self.store.bucket, Key=key))

    def orphans(self, *parts: str, older_s: float | None = None) -> list[tuple[str, str]]:
        """Uploads in parts under a folder that were begun `older_s` seconds ago (ORPHANED_S if None) and never ended: key and
        upload id."""
        found, least = [], ORPHANED_S if older_s is None else older_s
        for page in self._pages("list_multipart_uploads", f"{self.key(*parts)}/"):
            now = _date(page)
            found += [
                (each["Key"], each["UploadId"])
                for each in page.get("Uploads", [])
                if (now - each["Initiated"]).total_seconds() >= least
            ]
        return found

    def abort(self, key: str, upload: str) -> None:
        """Have the store forget the parts of an upload; one that is gone already is no error."""
        with self._faults(f"abort the upload of {key}"):
            try:
                self._timed(
                    lambda: self.client.abort_multipart_upload(Bucket=self.store.bucket, Key=key, UploadId=upload),
                )
            except self.client.exceptions.ClientError as error:
                if _code(error) not in _MISSING | {"NoSuchUpload"}:
                    raise

    def _pages(self, operation: str, prefix: str) -> list[dict[str, Any]]:
        """Every page of a listing."""
        with self._faults(f"list {prefix}"):
            pages = self.client.get_paginator(operation).paginate(Bucket=self.store.bucket, Prefix=prefix)
            return self._timed(lambda: list(pages))

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._faults(f"look for {key}"):
            try:
                return self._timed(
                    lambda: dict(self.client.head_object(Bucket=self.store.bucket, Key=key, ChecksumMode="ENABLED")),
                )
            except self.client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def _has(self, key: str, size: int, sha256: str) -> bool:
        """Whether the store has this file: by the SHA-256 that it computed itself, or for files in parts by the one it was told."""
        found = self._head(key)
        if found is None:
            return False
        computed = found.get("ChecksumSHA256", "")
        in_parts = not computed or "-" in computed
        told = found["Metadata"].get("sha256", "") if in_parts else base64.b64decode(computed).hex()
        return bool(found["ContentLength"] == size and told == sha256)

    def _write_if(self, key: str, body: bytes, **condition: str) -> str:
        """The new object's ETag; empty where the condition does not hold."""
        sent = {
            "Bucket": self.store.bucket,
            "Key": key,
            "Body": body,
            "ContentType": "application/json",
            **self._sealed(),
            **condition,
        }
        with self._faults(f"write {key}"):
            for attempt in range(CONFLICTS):
                try:
                    return str(self._timed(lambda: self.client.put_object(**sent))["ETag"])
                except self.client.exceptions.ClientError as error:
                    # A pointer that is gone answers 404 to If-Match on AWS.
                    if _code(error) in _REFUSED or ("IfMatch" in condition and _code(error) in _MISSING):
                        return ""
                    if _code(error) not in _CONFLICT or attempt == CONFLICTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _sealed(self) -> dict[str, str]:
        """What a write says of encryption."""
        key = {"SSEKMSKeyId": self.store.kms_key} if self.store.kms_key else {}
        return {"ServerSideEncryption": self.store.encryption, **key} if self.store.encryption else {}

    def _moving(self, transfer: Callable[[Callable[[int], None]], None], moved: Callable[[int], None]) -> None:
        """A transfer within the deadline, which every byte that moves puts off."""
        deadline = Deadline(self.store.deadline_s)

        def told(amount: int) -> None:
            deadline.put_off(max(amount, 0) / SLOWEST)
            moved(amount)

        self._timed(lambda: transfer(told), deadline)

    def _timed(self, call: Callable[[], T], deadline: "Deadline | None" = None) -> T:
        """What a call returns, within the store's deadline.

        botocore has a limit for each silence, and none for all of them together; so the call runs in a thread of its own, which is
        left behind when the deadline passes. What it was writing may then still come to be, as when an answer is lost.
        """
        outcome: list[tuple[bool, Any]] = []

        def run() -> None:
            try:
                outcome.append((True, call()))
            except Exception as error:  # noqa: BLE001  # handed to the caller
                outcome.append((False, error))

        deadline = deadline or Deadline(self.store.deadline_s)
        thread = threading.Thread(target=run, daemon=True, name=f"store {self.name}")
        thread.start()
        while thread.is_alive() and deadline.left() > 0:
            thread.join(max(deadline.left(), 0))
        if not outcome:
            raise _Stalled
        good, result = outcome[0]
        if good:
            return result
        raise result

    def _probe(self) -> None:
        key = self.key("probe.json")
        body = b'{"what": "Bakeoff asks here whether this store honours conditional writes"}'
        first = self.write_once(key, body)
        if first and self._write_if(key, body, IfNoneMatch="*"):
            self._refuse_unconditional("If-None-Match")
        elif self._write_if(key, body, IfMatch='"00000000000000000000000000000000"'):
            self._refuse_unconditional("If-Match")
        if self.read(key) is None:
            raise StoreError(f"store {self.name!r} does not return what was just written to {key}")

    def _refuse_unconditional(self, condition: str) -> None:
        said = f"store {self.name!r} ({self._where()}) ignores conditional writes ({condition}), so two publishers could overwrite "
        said += "each other's champion"
        if not self.store.single_writer:
            raise StoreError(
                f"{said}: use a store that honours them, such as AWS S3, seaweedfs or MinIO; or, if there is one publisher only, "
                "ever, set `single_writer: true` for the store"
            )
        logger.warning("%s: the settings say that there is one only", said)

    def _create_bucket(self) -> None:
        region = self.client.meta.region_name
        where = {} if region in (None, "us-east-1", "aws-global") else {"LocationConstraint": region}
        logger.info("store %s: making bucket %s", self.name, self.store.bucket)
        with self._faults("make the bucket"):
            try:
                extra: dict[str, Any] = {"CreateBucketConfiguration": where} if where else {}
                self.client.create_bucket(Bucket=self.store.bucket, **extra)
            except self.client.exceptions.ClientError as error:
                if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):  # another run was quicker
                    raise

    def _where(self) -> str:
        """The bucket and its host; never a user or password that an address may hold."""
        return f"bucket {self.store.bucket} at {urlsplit(self.client.meta.endpoint_url).hostname}"

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Say in our own words what went wrong; the original error may quote signed requests, so it is not chained."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

        try:
            yield
        except _Stalled:
            raise StoreError(
                f"store {self.name!r} ({self._where()}): cannot {doing}: it stalls, and {self.store.deadline_s:g} s have passed "
                "(`deadline_s` of the store): what was made is kept, so run again when the store is well"
            ) from None
        except FlexibleChecksumError:
            raise IntegrityError(f"store {self.name!r}: bytes were corrupted on the way ({doing}): try again") from None
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise self._explained(error, doing) from None

    def _explained(self, error: Exception, doing: str) -> StoreError:
        cause = _cause(error)
        response = getattr(cause, "response", None)
        code = str(response["Error"].get("Code", "")) if response else ""
        advice = ADVICE.get(code) or _without_response(cause, code)
        kind = _NoBucket if code == "NoSuchBucket" else StoreError
        shown = f" ({code})" if code else ""
        return kind(f"store {self.name!r} ({self._where()}): cannot {doing}{shown}: {advice}")


class _NoBucket(StoreError):
    """The bucket is missing."""


class _Stalled(Exception):
    """The deadline passed."""


class Deadline:
    """Until when something must be over; several threads may put it off."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()

    def put_off(self, seconds: float) -> None:
        """Give so much more."""
        with self._lock:
            self._until += seconds

    def left(self) -> float:
        """Seconds; less than 0 when it has passed."""
        return self._until - time.monotonic()


def open_store(places: Places, name: str) -> StoreClient:
    """A client for the operator's store of this name; an embedded server starts now.

    Raises:
        BadConfig: no such store, no such profile, or a prefix that climbs.
    """
    store, extra = places.store(name)
    return connect(name, store, extra)


def connect(name: str, store: Store, extra: Mapping[str, str] | None = None) -> StoreClient:
    """A client for a store that listens; nothing is sent yet.

    Args:
        extra: keyword arguments for `boto3.client`, such as the embedded server's credentials.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    if {".", ".."} & set(store.prefix.split("/")):
        raise BadConfig(f"store {name!r}: prefix {store.prefix!r} must not hold `.` or `..`")
    try:
        session = boto3.Session(botocore_session=_session(), profile_name=store.profile or None, region_name=store.region or None)
        path_style = bool(store.endpoint_url) and not _is_aws(store.endpoint_url)  # other hosts seldom have a name per bucket
        client = _client(session, store, dict(extra or {}), path_style)
        if not path_style and not _is_aws(client.meta.endpoint_url):  # the address came from the environment or the profile
            client = _client(session, store, dict(extra or {}), path_style=True)
    except BotoCoreError as error:
        raise BadConfig(f"store {name!r}: {error}") from None
    return StoreClient(name, store, client)


def check_store(places: Places, name: str) -> None:
    """The check at the door. An embedded store is ours, so it is not started only to be checked.

    Raises:
        StoreError, BadConfig: what is wrong, and what to do.
    """
    if not places.settings.store(name).service:
        open_store(places, name).check()


class Counter:
    """Adds up what threads report, and moves a bar by it."""

    def __init__(self, move: Callable[[float], None]) -> None:
        self._move = move
        self._lock = threading.Lock()
        self._total = 0

    def __call__(self, amount: int) -> None:
        with self._lock:
            self._total += amount
            self._move(self._total)


def _client(session: Any, store: Store, extra: dict[str, str], path_style: bool) -> Any:
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        s3={"addressing_style": "path"} if path_style else None,
        proxies={} if store.service else None,  # an embedded server is on loopback, where no proxy leads
    )
    return session.client("s3", endpoint_url=store.endpoint_url or None, config=config, **extra)


def _is_aws(address: str) -> bool:
    return (urlsplit(address).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _session() -> Any:
    """A session of its own, since sessions are not for several threads; but the description of S3 is read once a process."""
    from botocore.session import get_session

    session = get_session()
    session.register_component("data_loader", _loader())
    return session


@lru_cache(maxsize=1)
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)


def _content_type(path: Path) -> str:
    types = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".txt": "text/plain; charset=utf-8"}
    return types.get(path.suffix, "application/octet-stream")


def _date(answer: Mapping[str, Any]) -> datetime:
    """The store's clock, since this machine's may be off."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def _code(error: Any) -> str:
    return str(error.response["Error"].get("Code", ""))


def _cause(error: Exception) -> BaseException:
    """What lies behind the transfer manager's own errors."""
    if type(error).__name__ == "RetriesExceededError":
        return getattr(error, "last_exception", error)
    if type(error).__name__ == "S3UploadFailedError":
        return error.__context__ or error
    return error


def _without_response(error: BaseException, code: str) -> str:
    """Advice for errors that are no answer of the store, or one that we do not know."""
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if name in ("UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError"):
        return _EXPIRED
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "SSLError"):
        return f"it cannot be reached ({name}): check the network and the store's endpoint_url"
    return f"the store answered {code}" if code else name
