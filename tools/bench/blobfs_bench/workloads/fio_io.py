"""Groups `direct` and `buffered`: reads and writes of large files, by fio."""

from . import Workload

RANDOM = ("randread", "randwrite")


class FileIo(Workload):
    """fio on files that were written before: one for each job."""

    def __init__(self, kind, block_bytes, depth, jobs, direct, state=None):
        size = "4k" if block_bytes == 4096 else "1m"
        self.group = "direct" if direct else "buffered"
        self.what = f"{kind}-{size}"
        if kind in RANDOM:
            self.what += f"-qd{depth}" + (f"-{jobs}jobs" if jobs > 1 else "")
        if state:
            self.what += f"-{state}"
        self.name = f"{self.group}-{self.what}"
        self.kind, self.block_bytes, self.depth, self.jobs = kind, block_bytes, depth, jobs
        self.direct, self.state = direct, state
        self.needs_files = not direct

    def require(self, programs):
        programs.need("fio")

    def unfit(self, competitor):
        if not self.direct and self.state == "warm" and not competitor.keeps_data:
            return None  # the kernel's cache keeps it
        return super().unfit(competitor)

    def _job(self, trial):
        """Options of fio that all these workloads have."""
        size = trial.sizes.fio_file_bytes // self.jobs
        job = {"rw": self.kind, "bs": self.block_bytes, "size": size, "numjobs": self.jobs,
               "iodepth": self.depth, "direct": int(self.direct), "randrepeat": 0,
               "norandommap": True}
        if trial.competitor.has_files:
            folder = trial.competitor.mountpoint / f"fio-{self.jobs}"
            job |= {"directory": folder, "filename_format": "data.$jobnum"}
        else:
            job |= {"filename": trial.competitor.image, "offset_increment": size}
        if self.depth == 1:
            job["ioengine"] = "psync"
        else:
            # Buffered I/O is asynchronous with io_uring only.
            job["ioengine"] = "libaio" if self.direct else "io_uring"
        return job

    def prepare(self, trial):
        if not trial.competitor.has_files:
            return
        folder = trial.competitor.mountpoint / f"fio-{self.jobs}"
        if folder.is_dir():
            return
        folder.mkdir()
        size = trial.sizes.fio_file_bytes // self.jobs
        trial.run_fio(rw="write", bs=1 << 20, size=size, numjobs=self.jobs, ioengine="psync",
                      end_fsync=1, directory=folder, filename_format="data.$jobnum")

    def measure(self, trial):
        job = self._job(trial)
        if self.state == "warm":
            trial.run_fio(**job)
        elif not self.direct:
            trial.forget_caches()
        if self.kind in RANDOM or self.direct:
            # As long as it takes for a mean that can be trusted.
            job |= {"time_based": True, "runtime": f"{int(trial.sizes.fio_seconds * 1000)}ms"}
        if not self.direct and "write" in self.kind:
            # A fixed amount, until it is on the device: else the page cache's speed is measured.
            for option in ("time_based", "runtime"):
                job.pop(option, None)
            job |= {"end_fsync": 1}
            if self.kind in RANDOM:
                job["io_size"] = job["size"] // 8
        if self.block_bytes != 4096:
            unit = "MiB/s"
        else:
            unit = "us" if self.depth == 1 and self.jobs == 1 and self.direct else "IOPS"
        trial.fio(self.what, unit, **job)


def workloads(setup):
    found = []
    for direct in (True, False):
        for jobs in (1, 4):
            for depth in (1, 32):
                for kind in RANDOM:
                    if setup.sizes.quick and (jobs > 1 or (not direct and depth > 1)):
                        continue
                    found.append(FileIo(kind, 4096, depth, jobs, direct))
    for kind in ("read", "write"):
        # Several at a time where they are asynchronous, as a program that copies would.
        found.append(FileIo(kind, 1 << 20, 4, 1, True))
    for kind, state in (("read", "cold"), ("read", "warm"), ("write", None)):
        found.append(FileIo(kind, 1 << 20, 1, 1, False, state))
    return found
