"""Group `device`: random reads of the medium below the filesystem, by the driver alone and through
the blobstore, both without a kernel: what the blobstore costs."""

import json

from . import Workload

DEPTH = 32
DEVICE_BYTES = 512 << 20


class Device(Workload):
    group = "device"
    name = "device"

    def require(self, programs):
        programs.need("blobfs-perf")
        programs.need("blobfs-bench-store")

    def unfit(self, competitor):
        return None if competitor.name == "blobfs-mem" else "it has no medium in memory"

    def measure(self, trial):
        size = min(DEVICE_BYTES, trial.sizes.image_bytes)
        device, half = f"mem:{size}", size // 2
        seconds = max(trial.sizes.fio_seconds, 0.1)
        with trial.measured("driver-randread-4k-qd32", "IOPS", True) as measurement:
            said = json.loads(trial.run(
                [trial.programs.need("blobfs-perf"), "--json", "--quiet", "--precondition",
                 "--warm-up", "0.1", "--depth", DEPTH, "--time", seconds, "--size", half, device]))
            measurement.value = said["read"]["iops"]
        with trial.measured("blob-randread-4k-qd32", "IOPS", True) as measurement:
            said = json.loads(trial.run(
                [trial.programs.need("blobfs-bench-store"), "--depth", DEPTH, "--time", seconds,
                 "--size", half, device]))
            measurement.value = said["iops"]


def workloads(_setup):
    return [Device()]
