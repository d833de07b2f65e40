"""Group `idle`: what a mount that nobody uses costs."""

import time

from .. import machine
from . import Workload

QUIET_S = 2  # what was begun before is done, timers of a second included


class Idle(Workload):
    group = "idle"
    name = "idle"
    rounds = 1

    def unfit(self, competitor):
        if not competitor.has_daemon:
            return "it has no daemon"
        return super().unfit(competitor)

    def measure(self, trial):
        trial.competitor.settle()
        time.sleep(QUIET_S)
        seconds = trial.sizes.idle_seconds
        before = trial.competitor.cpu_seconds()
        time.sleep(seconds)
        used = trial.competitor.cpu_seconds() - before
        trial.add_value("processor-time", "% of a core", used / seconds * 100)
        trial.add_value("memory", "MiB",
                        machine.resident_bytes(trial.competitor.daemon.pid) / (1 << 20))


def workloads(_setup):
    return [Idle()]
