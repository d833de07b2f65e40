"""Group `growth`: what operations, mounting and memory cost with few files and with many.

On a filesystem of its own, which is made for this workload alone. At each number of files N: the last
ones are created; it is mounted after an unmount, and after the daemon was killed in the middle of its
work; chosen ones are looked up, deleted and made again, cold and warm. Metrics end in @N.

*Cold*: just mounted, nothing is in anybody's memory. With few files the sample touches each page of
the metadata several times, with many it touches most pages once. So a cold operation costs about as
many device reads as it needs pages there, and next to none here, whoever the filesystem is: the reads
of each are counted, and other filesystems have a factor of their own.
*Warm*: the same files once more, when the kernel has forgotten their names and inodes, and the
filesystem's own memory is as the first time left it.
"""

import shutil
import time

from .. import Unavailable, machine
from . import Workload

FILE_BYTES = 1024
DEVICE_BYTES_PER_FILE = 6144  # room for 1 KiB files, whoever stores them
FILES_PER_DIRECTORY = 1000
CHUNK = 500_000               # files that one call makes


class Growth(Workload):
    group = "growth"
    rounds = 1

    def __init__(self, many_directories):
        self.where = "many-dirs" if many_directories else "one-dir"
        self.name = f"growth-{self.where}"
        self.many_directories = many_directories

    def unfit(self, competitor):
        if competitor.name == "fuse2fs":
            return "it would take hours"
        if not competitor.remounts:
            return "a remount would lose everything"
        return super().unfit(competitor)

    def measure(self, trial):
        most = trial.sizes.growth[-1]
        image_bytes = max(1 << 30, most * DEVICE_BYTES_PER_FILE)
        free = shutil.disk_usage(trial.setup.scratch.path).free
        if free < image_bytes:
            raise Unavailable(f"{most} files may need {image_bytes >> 20} MiB, {free >> 20} MiB are "
                              "free; choose fewer with --files, or another --directory")
        competitor = type(trial.competitor)(trial.setup, f"-{self.name}")
        competitor.start(image_bytes, sparse=True)
        try:
            self._grow(trial.on(competitor), most)
        finally:
            competitor.stop()

    def _grow(self, trial, most):
        trial.new_folder()
        empty_bytes = trial.competitor.used_bytes()
        directories = -(-most // FILES_PER_DIRECTORY) if self.many_directories else 0
        sample = trial.sizes.growth_sample
        made = 0
        for files in trial.sizes.growth:
            phase = Phase(self, trial, files, directories)
            while made < files - sample:
                count = min(CHUNK, files - sample - made)
                phase.load("create-write", first=made, count=count, bytes=FILE_BYTES)
                made += count
            trial.competitor.settle()
            phase.measure("create", "create-write", first=made, count=files - made,
                          bytes=FILE_BYTES)
            made = files
            trial.competitor.settle()
            phase.note_memory("memory")
            phase.mount()
            phase.look_up_and_delete()
            trial.competitor.settle()
            trial.competitor.remount()
            used = trial.competitor.used_bytes() - empty_bytes
            phase.note("device-bytes-per-file", "B", used / files)


class Phase:
    """What is measured with so many files."""

    def __init__(self, workload, trial, files, directories):
        self.trial = trial
        self.competitor = trial.competitor
        self.files = files
        self.ending = f".{workload.where}@{files}"
        self.directories = directories

    def chosen(self, seed):
        return {"of": self.files, "count": self.trial.sizes.growth_sample, "shuffled": True,
                "seed": seed}

    def note(self, what, unit, value):
        self.trial.add_value(what + self.ending, unit, value)

    def load(self, operation, **options):
        self.trial.load(None, operation, directories=self.directories, **options)

    def measure(self, what, operation, **options):
        # Not settled first: the caches are as cold as they were made.
        reads = self.competitor.device_reads()
        self.trial.load(what + self.ending, operation, unit="us", settle=False,
                        directories=self.directories, **options)
        if reads is not None:
            self.note(f"{what}-device-reads", "reads/op",
                      (self.competitor.device_reads() - reads) / options["count"])

    def note_memory(self, what):
        if self.competitor.has_daemon:
            self.note(what, "MiB", machine.resident_bytes(self.competitor.daemon.pid) / (1 << 20))

    def mount(self):
        competitor = self.competitor
        competitor.unmount()
        competitor.drop_caches()
        begin = time.perf_counter()
        competitor.mount()
        self.note("mount-clean", "s", time.perf_counter() - begin)
        if not competitor.has_daemon:
            return
        # Something is always in the log that no checkpoint holds.
        side = competitor.mountpoint / "side"
        side.mkdir()
        self.trial.load(None, "create-write", side, count=self.trial.sizes.growth_sample,
                        bytes=FILE_BYTES)
        competitor.crash()
        competitor.drop_caches()
        begin = time.perf_counter()
        competitor.mount()
        self.note("mount-after-crash", "s", time.perf_counter() - begin)
        shutil.rmtree(side, ignore_errors=True)

    def look_up_and_delete(self):
        forget_all = self.trial.forget_caches
        forget_names = machine.drop_names_and_inodes
        some, others = self.chosen(1), self.chosen(2)
        forget_all()
        self.note_memory("memory-mounted")
        # Files that were made one after the other, and are used so.
        self.measure("lookup-cold-in-order", "stat", first=self.files // 2,
                     count=self.trial.sizes.growth_sample // 2)
        forget_all()
        self.measure("lookup-cold", "stat", **some)
        forget_names()
        self.measure("lookup", "stat", **some)
        forget_names()
        self.measure("unlink", "unlink", **some)
        self.load("create-write", bytes=FILE_BYTES, **some)
        # Not those: what was made just now lies together.
        forget_all()
        self.measure("unlink-cold", "unlink", **others)
        self.load("create-write", bytes=FILE_BYTES, **others)


def workloads(_setup):
    return [Growth(False), Growth(True)]
