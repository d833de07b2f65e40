"""Group `growth`: what operations, mounting and memory cost with few files and with many.

On a filesystem of its own, which is made for this workload alone. At each number of files N: the last
ones are created, chosen ones are looked up cold, deleted and made again; it is mounted after
an unmount, and after the daemon was killed in the middle of its work. Metrics end in @N.
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
        directories = -(-most // FILES_PER_DIRECTORY) if self.many_directories else 0
        empty_bytes = trial.competitor.used_bytes()
        sample = trial.sizes.growth_sample

        def load(what, operation, **options):
            # Not settled first: the caches are as cold as they were made.
            trial.load(what and f"{what}.{self.where}@{files}", operation, unit="us", settle=False,
                       directories=directories, **options)

        made = 0
        for files in trial.sizes.growth:
            while made < files - sample:
                count = min(CHUNK, files - sample - made)
                load(None, "create-write", first=made, count=count, bytes=FILE_BYTES)
                made += count
            trial.competitor.settle()
            load("create", "create-write", first=made, count=files - made, bytes=FILE_BYTES)
            made = files
            trial.competitor.settle()
            self._mount(trial, files)
            chosen = {"of": files, "count": sample, "shuffled": True}
            machine.drop_caches()
            self._memory(trial, "memory-mounted", files)
            load("lookup", "stat", **chosen)
            self._memory(trial, "memory", files)
            trial.forget_caches()
            load("unlink", "unlink", **chosen)
            load(None, "create-write", bytes=FILE_BYTES, **chosen)
            trial.competitor.settle()
            trial.competitor.remount()
            used = trial.competitor.used_bytes() - empty_bytes
            trial.add_value(f"device-bytes-per-file.{self.where}@{files}", "B", used / files)

    def _mount(self, trial, files):
        competitor = trial.competitor
        competitor.unmount()
        competitor.drop_caches()
        begin = time.perf_counter()
        competitor.mount()
        trial.add_value(f"mount-clean.{self.where}@{files}", "s", time.perf_counter() - begin)
        if not competitor.has_daemon:
            return
        # Something is always in the log that no checkpoint holds.
        side = competitor.mountpoint / "side"
        side.mkdir()
        trial.load(None, "create-write", side, count=trial.sizes.growth_sample, bytes=FILE_BYTES)
        competitor.crash()
        competitor.drop_caches()
        begin = time.perf_counter()
        competitor.mount()
        trial.add_value(f"mount-after-crash.{self.where}@{files}", "s",
                        time.perf_counter() - begin)
        shutil.rmtree(side, ignore_errors=True)
        trial.forget_caches()

    def _memory(self, trial, what, files):
        if trial.competitor.has_daemon:
            trial.add_value(f"{what}.{self.where}@{files}", "MiB",
                            machine.resident_bytes(trial.competitor.daemon.pid) / (1 << 20))


def workloads(_setup):
    return [Growth(False), Growth(True)]
