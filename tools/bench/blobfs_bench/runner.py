"""Rounds over workloads and competitors: in each round each workload is done on all competitors, one
after the other, beginning with another one each time. So what the machine does besides, or does
differently after an hour, concerns all of them alike."""

import sys
import time
import traceback

from . import Failed, Unavailable, machine
from .samples import Results
from .trial import Trial


class Progress:
    """One line on a terminal that is overwritten; nothing else where there is no terminal."""

    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._shown = stream.isatty()
        self._begin = time.monotonic()

    def say(self, text):
        if self._shown:
            minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
            self._stream.write(f"\r\033[K{minutes:3}:{seconds:02} {text}"[:150])
            self._stream.flush()

    def note(self, text):
        """A line that stays, terminal or not."""
        if self._shown:
            self._stream.write("\r\033[K")
        print(f"blobfs-bench: {text}", file=self._stream, flush=True)

    def done(self):
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()


class Runner:
    def __init__(self, setup, workloads, competitors, progress):
        self.setup = setup
        self.workloads = workloads
        self.competitors = competitors  # classes
        self.progress = progress
        self.results = Results()
        self.missing = {}  # competitor -> why it is not there
        self.machine_busy = []
        self._running = []

    def run(self):
        """Everything. Interrupted by an exception, results() has what there is."""
        self._start()
        usable = self._usable_workloads()
        prepared = set()
        for number in range(self.setup.sizes.rounds):
            for workload in usable:
                if workload.rounds is not None and number >= workload.rounds:
                    continue
                begin = number % max(len(self._running), 1)
                for competitor in self._running[begin:] + self._running[:begin]:
                    self.progress.say(f"round {number + 1} of {self.setup.sizes.rounds}: "
                                      f"{workload.name} on {competitor.name}")
                    self._try(workload, competitor, prepared)

    def _start(self):
        for kind in self.competitors:
            self.progress.say(f"making {kind.title}")
            competitor = kind(self.setup)
            try:
                competitor.require()
                competitor.start()
            except (Unavailable, Failed) as reason:
                self.missing[kind.name] = str(reason)
                self.progress.note(f"{kind.title} is left out: {reason}")
                continue
            self._running.append(competitor)

    def _usable_workloads(self):
        usable = []
        for workload in self.workloads:
            try:
                workload.require(self.setup.programs)
            except Unavailable as reason:
                self.results.skipped[workload.name, "all"] = str(reason)
                self.progress.note(f"{workload.name} is left out: {reason}")
                continue
            usable.append(workload)
        return usable

    def _try(self, workload, competitor, prepared):
        key = workload.name, competitor.name
        if key in self.results.skipped or key in self.results.failed:
            return
        reason = workload.unfit(competitor)
        if reason:
            self.results.skipped[key] = reason
            return
        trial = Trial(competitor, workload, self.results, self.setup)
        try:
            if key not in prepared:
                prepared.add(key)
                workload.prepare(trial)
            workload.measure(trial)
        except (Unavailable, Failed, OSError, ValueError) as reason:
            self.results.failed[key] = str(reason)
            self.progress.note(f"{workload.name} on {competitor.name} failed: {reason}")
            if not isinstance(reason, (Unavailable, Failed)):
                traceback.print_exc()
            self._revive(competitor)

    def _revive(self, competitor):
        """After a failure: a filesystem that is not usable any more is left out from now on."""
        try:
            competitor.settle()
        except (Failed, OSError) as reason:
            self._running.remove(competitor)
            self.missing[competitor.name] = f"it broke: {reason}"
            self.progress.note(f"{competitor.title} is left out from now on: {reason}")

    def stop(self):
        """Ends the competitors; what does not end in good order is told."""
        for competitor in self._running:
            try:
                competitor.stop()
            except (Failed, OSError) as reason:
                self.progress.note(str(reason))
        self._running = []
