"""Find a secret in files, however it is wrapped: as text, in base64, gzip, zip, parquet or SQLite."""

import base64
import binascii
import gzip
import io
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
DEEPEST = 3


def needles(secret: str) -> list[bytes]:
    """Either half of the secret as it is, the whole in hexadecimal, and inside base64 at each of its three alignments."""
    raw = secret.encode()
    found = [raw[: len(raw) // 2], raw[len(raw) // 2 :], raw.hex().encode()]
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        found.append(coded[-(-8 * shift // 6) : len(coded) - (1 if (shift + len(raw)) % 3 else 0)])
    return found


def holds(data: bytes, secret: str, depth: int = 0) -> bool:
    """Whether the secret is in there."""
    if any(needle in data for needle in needles(secret)):
        return True
    return depth < DEEPEST and any(holds(inner, secret, depth + 1) for inner in unwrapped(data))


def unwrapped(data: bytes) -> Iterator[bytes]:
    """What is packed inside."""
    for start in (match.start() for match in re.finditer(rb"\x1f\x8b\x08", data)):
        try:
            yield zlib.decompressobj(31).decompress(data[start:])
        except zlib.error:  # the three bytes came by chance
            continue
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    if data.startswith(b"PAR1"):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(data))
        yield f"{table.schema.metadata} {table.to_pylist()}".encode()
    if data.startswith(b"SQLite format 3"):
        yield dump(data)
    for run in BASE64.findall(data):
        if b"H4sI" in run:  # gzip in base64; text in base64 is found by its alignments
            try:
                yield base64.b64decode(run[run.index(b"H4sI") :].rstrip(b"=") + b"==", validate=False)
            except binascii.Error:
                continue


def dump(data: bytes) -> bytes:
    """Every value of a database; one may span several pages of the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "copy.db"
        path.write_bytes(data)
        database = sqlite3.connect(path)
        try:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = (row for name in tables for row in database.execute(f'SELECT * FROM "{name}"'))
            return b"\n".join(bytes(value) if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
        finally:
            database.close()


def files_with(folder: Path, secret: str) -> list[Path]:
    """The files below a folder that hold the secret."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and holds(path.read_bytes(), secret)]


def planted(folder: Path, secret: str) -> tuple[int, int]:
    """How many of the ways to hide a secret are found, of how many: the search proves itself before it is believed."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    text = f"before {secret} after".encode()
    (folder / "plain.txt").write_bytes(text)
    for shift in range(3):
        (folder / f"base64-{shift}.txt").write_bytes(base64.b64encode(b"x" * shift + text))
    (folder / "a.gz").write_bytes(gzip.compress(text))
    (folder / "gzip-in-base64.json").write_bytes(b'{"data": "' + base64.b64encode(gzip.compress(text)) + b'"}')
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inner.txt", text)
    pyarrow.parquet.write_table(pyarrow.table({"a": [text.decode()] * 100}), folder / "a.parquet", compression="zstd")
    with sqlite3.connect(folder / "a.db") as database:
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (?)", ["y" * 4080 + text.decode()])
    return len(files_with(folder, secret)), len(list(folder.iterdir()))
