"""Signatures: a contender's bytes are those that the holder of a key published (`model-signing`, the extra `signing`).

    signatures/<sha256>/<key>.sigstore.json    over every file of a contender; <key> tells the public key

An operator's store names a private key, to sign what is published there, and a public one, without whose signature no contender
that lies there is loaded. Keys are elliptic (P-256, P-384 or P-521), in PEM files; nothing is asked of any server.
"""

import hashlib
import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.errors import BadConfig, IntegrityError
from tasks.settings import Store
from tasks.store import StoreClient

logger = logging.getLogger(__name__)
SIGNATURES = "signatures"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


def check_keys(name: str, store: Store, publishes: bool = False) -> None:
    """Raises BadConfig where a store's keys cannot be used, naming what and where.

    Args:
        name: the store's.
        publishes: whether what is published there must come back believed.
    """
    if store.signing_key:
        _private_key(name, store)
    believed = key_id(name, store)
    if publishes and believed and (not store.signing_key or believed != _id(_private_key(name, store).public_key())):
        raise BadConfig(
            f"store {name!r}: nothing could be published, since what lies there must be signed by verifying_key "
            f"{store.verifying_key}: set signing_key to the private key that belongs to it"
        )


def key_id(name: str, store: Store) -> str:
    """Tells the public key that this machine believes; empty where it believes whatever the store holds."""
    if not store.verifying_key:
        return ""
    return _id(_loaded(name, "verifying_key", store.verifying_key, lambda pem, parse: parse.load_pem_public_key(pem)))


def sign(client: StoreClient, sha256: str, folder: Path) -> None:
    """Sign a contender's folder with the store's key, where it has one, and put the signature beside it, once.

    Raises: as `check_keys`; StoreError.
    """
    store = client.store
    if not store.signing_key:
        return
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from model_signing import signing

    key = _private_key(client.name, store)
    place = _place(client, sha256, _id(key.public_key()))
    there = client.read(place)
    with TemporaryDirectory() as aside:
        signature, public = Path(aside) / "signature", Path(aside) / "public.pem"
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        if there and not _fault(there[0], public, folder):
            return
        password: Any = _password(store)  # bytes, whatever its annotation says
        config = signing.Config().use_elliptic_key_signer(private_key=store.signing_key, password=password)
        config.sign(folder, signature)
        client.write(place, signature.read_bytes())  # over one that does not hold
    logger.info("%s is signed by key %s", client.uri("contenders", sha256), _id(key.public_key()))


def signature_of(client: StoreClient, sha256: str) -> bytes | None:
    """The signature of a contender by the key that this machine believes; None where it believes whatever the store holds.

    Raises IntegrityError where there is none.
    """
    believed = key_id(client.name, client.store)
    if not believed:
        return None
    found = client.read(_place(client, sha256, believed))
    if found is None:
        where, key = client.uri("contenders", sha256), f"{client.store.verifying_key} (key {believed})"
        remedy = f"One that you vouch for is signed by `bakeoff champion sign CONFIG --sha256 {sha256}`, where the private key is"
        raise IntegrityError(f"{where} is not signed by {key}. {remedy}")
    return found[0]


def refuse_forged(client: StoreClient, sha256: str, signature: bytes | None, folder: Path) -> None:
    """Raises IntegrityError unless a signature that `signature_of` found is of every file of the downloaded contender."""
    fault = _fault(signature, Path(client.store.verifying_key), folder) if signature is not None else ""
    if fault:
        raise IntegrityError(f"the signature of {client.uri('contenders', sha256)} does not hold: {fault}")


def _fault(signature: bytes, public_key: Path, folder: Path) -> str:
    """Why a signature does not hold; empty where it does."""
    from model_signing import verifying

    with TemporaryDirectory() as aside:
        (Path(aside) / "signature").write_bytes(signature)
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(folder, Path(aside) / "signature")
        except Exception as error:  # noqa: BLE001 - of whatever type a malformed one raises in what parses it; it is refused
            return str(error).partition("\n")[0] or type(error).__name__
    return ""


def signatures(client: StoreClient, sha256: str) -> list[str]:
    """The keys of the objects that sign a contender."""
    return [stored.key for stored in client.listed(SIGNATURES, sha256)]


def _place(client: StoreClient, sha256: str, key: str) -> str:
    return client.key(SIGNATURES, sha256, f"{key}.sigstore.json")


def _private_key(name: str, store: Store) -> Any:
    return _loaded(name, "signing_key", store.signing_key, lambda pem, parse: parse.load_pem_private_key(pem, _password(store)))


def _password(store: Store) -> bytes | None:
    found = os.environ.get(store.signing_password_env, "") if store.signing_password_env else ""
    return found.encode() or None


def _loaded(name: str, field: str, path: str, load: Any) -> Any:
    try:
        import model_signing  # noqa: F401
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise BadConfig(
            f"store {name!r}: {field} needs model-signing: `pip install '.[signing]'` in the project's folder"
        ) from None
    try:
        key = load(Path(path).read_bytes(), serialization)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError: its password is missing, or unwanted
        raise BadConfig(f"store {name!r}: {field} {path} cannot be read as a key in PEM ({error})") from None
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) else type(key).__name__
    if curve not in CURVES:
        raise BadConfig(f"store {name!r}: {field} {path} is of {curve}: make one of {', '.join(CURVES)}")
    return key


def _id(public_key: Any) -> str:
    """The beginning of the public key's SHA-256 (of its DER form)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:16]
