"""Group `verify`: fio writes, and reads back from the device, and every block is what it was."""

from . import Workload


class Verify(Workload):
    group = "verify"
    needs_data = True
    rounds = 1

    def __init__(self, direct):
        self.what = "direct" if direct else "buffered"
        self.name = f"verify-{self.what}"
        self.direct = direct

    def require(self, programs):
        programs.need("fio")

    def measure(self, trial):
        trial.new_folder()
        job = {"rw": "randwrite", "bs": "16k", "size": trial.sizes.verify_bytes,
               "ioengine": "libaio" if self.direct else "psync",
               "iodepth": 16 if self.direct else 1, "direct": int(self.direct),
               "filename": trial.folder / "data", "verify": "crc32c", "verify_fatal": 1, "verify_state_save": 0,
               "randrepeat": 1, "randseed": 7, "end_fsync": 1}
        with trial.measured(f"{self.what}-write-and-read", "s"):
            trial.run_fio(**job)
        trial.forget_caches()
        with trial.measured(f"{self.what}-read-after-remount", "s"):
            trial.run_fio(**job, verify_only=True)
        trial.remove_folder()


def workloads(_setup):
    return [Verify(True), Verify(False)]
