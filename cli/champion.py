"""`bakeoff champion`: what S3 points to, what it pointed to before, and how to take it back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import config_argument, output_option, overrides_argument, plain_errors

if TYPE_CHECKING:
    from tasks.records import Model

version_number = click.IntRange(min=1)


@click.group()
def champion() -> None:
    """What S3 points to, and what it pointed to before."""


@champion.command("show")
@config_argument
@overrides_argument
@output_option
@plain_errors
def show_champion(config: Path, overrides: tuple[str, ...], output: str) -> None:
    """Show the champion of a CONFIG file's bake-off: where it lies, its version and why it was published."""
    from cli.versions import champion_of, describe

    found = champion_of(config, overrides)
    tell(describe(found), found, output)


@champion.command("list")
@config_argument
@overrides_argument
@click.option(
    "--all", "every", is_flag=True, help="The champions of all bake-offs in the store, instead of all versions of this one."
)
@output_option
@plain_errors
def list_champions(config: Path, overrides: tuple[str, ...], every: bool, output: str) -> None:
    """List every version of the champion, the newest first: who, when, why."""
    from cli import versions

    if every:
        found = versions.list_champions(config, overrides)
        tell("\n".join(map(versions.describe, found)) or versions.NONE, found, output)
    else:
        entries = versions.list_versions(config, overrides)
        tell(versions.versions_text(entries), entries, output)


@champion.command("diff")
@config_argument
@click.argument("one", metavar="VERSION", type=version_number)
@click.argument("other", metavar="VERSION", type=version_number)
@overrides_argument
@output_option
@plain_errors
def diff_champions(config: Path, one: int, other: int, overrides: tuple[str, ...], output: str) -> None:
    """Show what changed between two versions: metrics, config, data, prompts, prices, environment, files."""
    from cli.versions import diff_versions, difference_text

    found = diff_versions(config, overrides, one, other)
    tell(difference_text(found, one, other), found, output)


@champion.command("rollback")
@config_argument
@overrides_argument
@click.option("--to", type=version_number, required=True, help="The version whose contender becomes champion again.")
@click.option("--reason", required=True, help="Why; it is kept with who and when.")
@output_option
@plain_errors
def roll_back(config: Path, overrides: tuple[str, ...], to: int, reason: str, output: str) -> None:
    """Make the contender of an older version champion again, as a new version.

    It is downloaded and hashed before the pointer moves. The same contender that was taken down is not published again by a run.
    """
    from cli.versions import describe, roll_champion_back

    now = roll_champion_back(config, overrides, to, reason)
    tell(describe(now), now, output)


@champion.command("verify")
@config_argument
@overrides_argument
@click.option("--all", "everything", is_flag=True, help="Every version that was not pruned, not the champion alone.")
@output_option
@plain_errors
def verify_champion(config: Path, overrides: tuple[str, ...], everything: bool, output: str) -> None:
    """Download the champion and hash every byte of it; status 1 when something is not as it was published."""
    from cli.versions import proofs_text, refuse_faults, verify_champion

    proofs = verify_champion(config, overrides, everything)
    tell(proofs_text(proofs), proofs, output)
    refuse_faults(proofs)


@champion.command("sign")
@config_argument
@overrides_argument
@click.option("--sha256", required=True, help="The contender that you vouch for, as its record and its page name it.")
@output_option
@plain_errors
def sign_version(config: Path, overrides: tuple[str, ...], sha256: str, output: str) -> None:
    """Sign a contender that was published before, with the key that the store's settings name, after every byte of it was hashed.

    What is published from now on is signed when it is published.
    """
    from cli import versions

    found = versions.sign_version(config, overrides, sha256)
    tell(versions.describe(found), found, output)


@champion.command("prune")
@config_argument
@overrides_argument
@click.option(
    "--keep", type=click.IntRange(min=1), default=10, show_default=True, help="The newest versions of each champion stay."
)
@click.option("--yes", "really", is_flag=True, help="Remove it; without this it is only shown.")
@output_option
@plain_errors
def prune_champions(config: Path, overrides: tuple[str, ...], keep: int, really: bool, output: str) -> None:
    """Show, or with --yes remove, the contenders in the store that no champion and no newer version needs."""
    from cli.versions import prune_store, pruning_text

    found = prune_store(config, overrides, keep, really)
    tell(pruning_text(found, keep), found, output)


def tell(text: str, found: "Model | Sequence[Model] | None", output: str) -> None:
    """The one or the other form, to standard output."""
    if output == "text":
        if text:
            click.echo(text)
        return
    click.echo(json.dumps(_plain(found), ensure_ascii=False, indent=2))


def _plain(found: Any) -> Any:
    if found is None:
        return None
    return [_plain(each) for each in found] if isinstance(found, Sequence) else found.model_dump(mode="json")
