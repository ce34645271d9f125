"""Any contender made champion on a real store, without a bake-off before it."""

from datetime import UTC, datetime

from tasks.manifest import read_manifest
from tasks.records import ContenderRecord, Decision
from tasks.registry.champion import ChampionVersion, move_champion, read_champion
from tasks.registry.publish import upload_contender
from tasks.settings import Places
from tasks.store import open_store


def crown(places: Places, store: str, name: str, contender: ContenderRecord, **changes: object) -> ChampionVersion:
    """Upload a contender's folder and move the pointer to it.

    Args:
        changes: fields of the version's record, such as `config`.
    """
    client = open_store(places, store)
    client.check()
    sha256, _ = upload_contender(client, contender.folder)
    now, manifest = read_champion(places.settings, client, name), read_manifest(contender.folder)
    draft = ChampionVersion(
        name=name,
        version=now.version + 1 if now else 1,
        previous=now.version if now else None,
        sha256=sha256,
        uri=client.uri("contenders", sha256),
        contender=manifest.name,
        arm=manifest.arm,
        kind=manifest.kind,
        fingerprint=manifest.fingerprint,
        run_id="run-1",
        published=datetime.now(UTC),
        publisher="somebody@somewhere",
        decision=Decision.PUBLISH,
        reason="It is the one of this test.",
        dataset=manifest.dataset,
        comparison=None,
        contenders={manifest.name: manifest.fingerprint},
        config={},
    )
    return move_champion(places.settings, client, draft.model_copy(update=changes))
