"""One workload on one competitor, measured: what a workload gets to work with."""

import json
import shutil
import time
from contextlib import contextmanager

from . import machine
from .process import run
from .samples import Sample


class Measurement:
    """Filled in by what runs within Trial.measured()."""

    def __init__(self):
        self.value = None       # None: operations per second, or the seconds that it took
        self.seconds = None     # None: from begin to end of the block
        self.operations = 0
        self.details = {}


class Trial:
    def __init__(self, competitor, workload, results, setup):
        self.competitor = competitor
        self.setup = setup
        self.sizes = setup.sizes
        self.programs = setup.programs
        self._workload = workload
        self._results = results
        # The workload's place on the competitor; made anew for each trial where it writes names.
        self.folder = competitor.mountpoint / workload.name

    def run(self, command, **options):
        return run(self.setup.scratch, command, **options)

    def on(self, competitor):
        """The same on another instance of the competitor."""
        return Trial(competitor, self._workload, self._results, self.setup)

    def new_folder(self):
        """The workload's folder, empty."""
        self.remove_folder()
        self.folder.mkdir()
        return self.folder

    def remove_folder(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget_caches(self):
        self.competitor.forget_caches()
        # The programs themselves are not to be read from the disk while they are measured.
        for tool in self._workload.tools:
            self.run([tool, "--version"])

    @contextmanager
    def measured(self, what, unit, higher_is_better=False, settle=True):
        """Measures the block and adds a sample of the metric GROUP.WHAT. Units: "op/s" and "s" are
        computed when the block gives no value; others it must give."""
        competitor = self.competitor
        if settle:
            competitor.settle()
        asked_before = competitor.requests()
        competitor.before_measuring()
        measurement = Measurement()
        try:
            cpu_before = competitor.cpu_seconds()
            machine_before = machine.busy_seconds()
            begin = time.perf_counter()
            yield measurement
            seconds = time.perf_counter() - begin
            machine_after = machine.busy_seconds()
            cpu_after = competitor.cpu_seconds()
        finally:
            competitor.after_measuring()
        sample = Sample(value=0, seconds=measurement.seconds or seconds,
                        operations=measurement.operations,
                        machine_seconds=machine_after - machine_before,
                        details=measurement.details)
        if cpu_before is not None:
            sample.daemon_seconds = cpu_after - cpu_before
        asked_after = competitor.requests()
        if asked_before and asked_after:
            sample.requests = {name: count - asked_before[0].get(name, 0)
                               for name, count in asked_after[0].items()
                               if count != asked_before[0].get(name, 0)}
            sample.bytes_read = asked_after[1] - asked_before[1]
            sample.bytes_written = asked_after[2] - asked_before[2]
        sample.value = measurement.value
        if sample.value is None:
            sample.value = (sample.operations / sample.seconds if unit == "op/s"
                            else sample.seconds)
        self._results.add(competitor.name, f"{self._workload.group}.{what}", unit,
                          higher_is_better, sample)

    def add_value(self, what, unit, value, higher_is_better=False, **details):
        """A figure that is not the duration of anything, such as bytes."""
        self._results.add(self.competitor.name, f"{self._workload.group}.{what}", unit,
                          higher_is_better, Sample(value=value, seconds=0, details=details))

    def load(self, what, operation, path=None, unit="op/s", settle=True, **options):
        """Measures blobfs-bench-load doing an operation: "op/s", or "us" for the mean time of one.
        what: None to run it without measuring."""
        command = [self.programs.need("blobfs-bench-load"), operation, path or self.folder]
        for name, value in options.items():
            if value is True:
                command.append(f"--{name.replace('_', '-')}")
            elif value:
                command += [f"--{name.replace('_', '-')}", value]
        if what is None:
            return json.loads(self.run(command))
        with self.measured(what, unit, unit == "op/s", settle) as measurement:
            said = json.loads(self.run(command))
            measurement.operations = said["operations"]
            measurement.seconds = said["seconds"]
            measurement.details = said
            if unit == "us":
                measurement.value = said["mean_us"]
        return said

    def fio(self, what, unit, **options):
        """Measures fio: "us" (mean latency), "IOPS" or "MiB/s"."""
        with self.measured(what, unit, unit != "us") as measurement:
            job = self.run_fio(**options)
            side = job["read"] if job["read"]["total_ios"] else job["write"]
            measurement.operations = side["total_ios"]
            measurement.seconds = max(side["runtime"], 1) / 1e3
            measurement.value = {"us": side["lat_ns"]["mean"] / 1e3, "IOPS": side["iops"],
                                 "MiB/s": side["bw_bytes"] / (1 << 20)}[unit]
            percentiles = side["clat_ns"].get("percentile", {})
            measurement.details = {"mean_us": side["lat_ns"]["mean"] / 1e3,
                                   "p50_us": percentiles.get("50.000000", 0) / 1e3,
                                   "p99_us": percentiles.get("99.000000", 0) / 1e3}

    def run_fio(self, **options):
        """Runs one fio job (group_reporting); its part of fio's JSON."""
        command = [self.programs.need("fio"), "--name=bench", "--output-format=json",
                   "--group_reporting", "--thread", "--fallocate=none", "--invalidate=0"]
        for name, value in options.items():
            command.append(f"--{name}" if value is True else f"--{name}={value}")
        said = self.run(command)
        return json.loads(said[said.index("{"):])["jobs"][0]
