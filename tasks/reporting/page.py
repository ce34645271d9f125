"""The report: one HTML file that needs nothing beside it, and asks nobody for anything."""

import socket
from pathlib import Path

from tasks.records import Verdict
from tasks.reporting.evidence import find_evidence
from tasks.reporting.markdown import markdown_page
from tasks.reporting.parts import Page
from tasks.reporting.pictures import find_pictures
from tasks.reporting.records import Evidence, KeptRun
from tasks.reporting.runs import REPORT, read_kept, read_verdict
from tasks.reporting.sections.answers import (
    confusion_section,
    differing_section,
    failures_section,
    reliability_section,
    slices_section,
)
from tasks.reporting.sections.making import cost_section, findings_section, learning_section, lineage_section, prompts_section
from tasks.reporting.sections.outcome import contenders_section, differences_section, front_section
from tasks.reporting.text import visible
from tasks.verdict.report import HEADLINES, headline
from tasks.workspace import Workspace, write_durably

TEMPLATES = Path(__file__).with_name("templates")


def read_page(folder: Path, workspace: Workspace) -> Page:
    """What the report of the run that lies in `folder` tells. Pictures and what the rows show are kept in the workspace.

    Raises:
        IntegrityError: what was kept of the run cannot be read.
    """
    verdict, kept = read_verdict(folder), read_kept(folder)
    evidence = find_evidence(kept, workspace) if kept else None
    return page_of(verdict, kept, evidence, find_pictures(verdict, evidence, workspace))


def write_report(folder: Path, workspace: Workspace, to: Path | None = None) -> Path:
    """Write the report of the run that lies in `folder`, beside its verdict or to another file.

    Raises:
        IntegrityError: what was kept of the run cannot be read.
    """
    return write_page(read_page(folder, workspace), to or folder / REPORT)


def write_page(page: Page, target: Path) -> Path:
    """Write a page as one HTML file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_durably(target, render(page))
    return target


def markdown_report(page: Page, report: Path, run_id: str, shared: str) -> str:
    """The report for the run's page in Prefect, and where the file with its pictures lies: a browser opens no file of another
    machine.

    Args:
        shared: its address in a workspace that machines share; empty where there is none.
    """
    ways = [
        f"With its pictures it is one HTML file, `{REPORT}`.",
        f"On the machine `{socket.gethostname()}` it lies at:",
        f"    {report}",
        "There this writes it anew, wherever you want it:",
        f"    bakeoff report {run_id} --to {run_id[:8]}.html",
    ]
    ways += ["From any machine that reaches the workspace's store:", f"    aws s3 cp {shared} ."] if shared else []
    return "\n\n".join([markdown_page(page), "## The report as a file", *ways]) + "\n"


def page_of(verdict: Verdict, kept: KeptRun | None, evidence: Evidence | None, pictures: dict[str, str]) -> Page:
    """All parts in their order; what there is nothing to say of is left out."""
    sections = [
        contenders_section(verdict),
        differences_section(verdict, pictures),
        front_section(verdict, pictures),
        confusion_section(evidence, pictures),
        reliability_section(verdict, evidence, pictures),
        slices_section(verdict, pictures),
        learning_section(verdict, evidence, pictures),
        differing_section(evidence),
        failures_section(verdict, evidence),
        findings_section(kept),
        cost_section(verdict, kept),
        lineage_section(verdict, kept, evidence),
        prompts_section(evidence),
    ]
    return Page(
        title=f"Bake-off {verdict.name}",
        headline=f"{HEADLINES[verdict.decision]}: {headline(verdict)}",
        reason=verdict.reason,
        about=f"Run {verdict.run_id} of bake-off {verdict.name}, {verdict.created:%d %B %Y, %H:%M} UTC",
        why=f"It ran because {verdict.why.words}." if verdict.why else "",
        decision=verdict.decision.value,
        sections=[each for each in sections if each],
    )


def render(page: Page) -> str:
    """The page as HTML. Everything but the pictures is escaped, and nothing in it stays unseen."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def shown(value: object) -> str:
        return visible(value) if isinstance(value, str) else str(value)

    around = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    around.filters["shown"] = shown
    return around.get_template("report.html.jinja").render(page=page)
