"""`make up`, and what becomes of runs when machines, servers and workers die or are stopped: each ends, in the same verdict."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.site import Site
from benchmarks.scratch import scratch
from deployments.automations import SILENCE
from deployments.stack import _supervisor, states
from tasks.child import GRACE_S

EPOCHS = 60
AWAY_S = 60.0


@dataclass
class Tally:
    """What became of the runs."""

    runs: int = 0
    completed: int = 0
    resumed: int = 0
    """Trainings that went on from a checkpoint."""
    same: int = 0
    turns_left: int = 0
    """Turns of the device that nobody gave back."""
    histories: list[str] = field(default_factory=list)


def run(options: Options) -> list[Figure]:
    """The figures."""
    tally = Tally()
    with scratch() as folder:
        site = Site(folder, EPOCHS)
        try:
            first_ui, first_all = site.up()
            _, again = site.up()
            killed = scenario(site, tally, "killed", machine_dies)
            away = scenario(site, tally, "away", server_goes_away)
            stopped = scenario(site, tally, "stopped", worker_is_stopped)
            down = scenario(site, tally, "down", everything_is_stopped)
            refused = port_is_taken(site)
        finally:
            site.command("down")
        left = processes_of(site)
    return [
        Figure("ui_answers_s", first_ui, note="from `python -m deployments up` in an empty home; the command's own start is in it"),
        Figure("worker_polls_s", first_all, "<= 60"),
        Figure("up_again_s", again, note="nothing to start: everything is registered again"),
        Figure("dead_machine_noticed_s", killed, f"<= {SILENCE.seconds + 30}", "worker, run and training killed with SIGKILL"),
        Figure("server_away_s", AWAY_S, note=f"killed with SIGKILL while a run went on, which then ended after {away:.0f} s"),
        Figure(
            "worker_stopped_s", stopped, f"<= {GRACE_S + 10}", "from SIGTERM to the end of worker and training, checkpoint written"
        ),
        Figure("down_s", down, note="in the middle of a training; its run went on at the next `up`"),
        Figure("runs", tally.runs, note="; ".join(tally.histories)),
        Figure("runs_completed_on_the_same_id", tally.completed, f"== {tally.runs}"),
        Figure("runs_that_went_on_from_a_checkpoint", tally.resumed, ">= 3", "all but the one whose server went away"),
        Figure("runs_with_another_verdict", tally.runs - tally.same, "== 0", "than an unbroken run's"),
        Figure("turns_left_behind", tally.turns_left, "== 0"),
        Figure("processes_left_behind", left, "== 0"),
        Figure("taken_port_refused", refused, "== 1"),
    ]


def scenario(site: Site, tally: Tally, name: str, happens: Callable[[Site, str], float]) -> float:
    """A run to which something happens while it trains; then the same without."""
    run = site.begin(name)
    site.wait(site.training, 300)
    took = happens(site, run)
    site.wait(lambda: site.state(run)["state_type"] in {"COMPLETED", "FAILED", "CANCELLED"}, 1200)
    tally.runs += 1
    state = site.state(run)["state"]
    tally.histories.append(f"{name}: {' '.join(site.history(run))} {state['message'] or ''}".strip())
    tally.resumed += "goes on from its checkpoint" in site.log(run)
    tally.turns_left += site.turns_taken()
    if state["type"] == "COMPLETED":
        tally.completed += 1
        tally.same += site.verdict(run) == site.unbroken(name)
    else:
        print(site.log(run), file=sys.stderr)  # its home is gone afterwards
    return took


def machine_dies(site: Site, run: str) -> float:
    """The worker and all its processes are killed. Seconds until the run is marked; the supervisor starts another worker."""
    worker = site.worker()
    for process in [worker, *worker.children(recursive=True)]:
        process.kill()
    return site.wait(lambda: "Crashed" in site.history(run), 300)


def server_goes_away(site: Site, run: str) -> float:
    """The server is killed and stays away for a minute. Seconds until the run has ended from then on."""
    supervisor, server = _supervisor(site.home), psutil.Process(states(site.home)["server"]["pid"])
    server.suspend()  # it does not hear the SIGTERM of the next line, which keeps the supervisor from starting another one
    supervisor.stopProcess("server", False)
    server.kill()
    time.sleep(AWAY_S)
    supervisor.startProcess("server")
    began = time.monotonic()
    site.wait(lambda: site.state(run)["state_type"] in {"COMPLETED", "FAILED", "CANCELLED"}, 1200)
    return time.monotonic() - began


def worker_is_stopped(site: Site, run: str) -> float:
    """SIGTERM. Seconds until the worker and all its processes have ended; by then the run is given back."""
    worker = site.worker()
    everything, began = [worker, *worker.children(recursive=True)], time.monotonic()
    worker.terminate()
    psutil.wait_procs(everything, timeout=120)
    took = time.monotonic() - began
    site.wait(lambda: "AwaitingRetry" in site.history(run), 30)
    return took


def everything_is_stopped(site: Site, run: str) -> float:
    """`down`, `up`."""
    began = time.monotonic()
    site.command("down")
    took = time.monotonic() - began
    site.up()
    return took


def port_is_taken(site: Site) -> int:
    """Whether a second home is refused the port, with a message that says so."""
    other = Site(site.folder / "other", EPOCHS, site.port)
    try:
        other.up()
    except RuntimeError as error:
        return int(f"port {site.port} is taken by another program" in str(error))
    other.command("down")
    return 0


def processes_of(site: Site) -> int:
    """How many processes still have the home in their command or folder."""
    found = 0
    for process in psutil.process_iter():
        try:
            found += any(str(site.home) in word for word in [*process.cmdline(), process.cwd()])
        except psutil.Error:
            continue
    return found
