"""Group `synced`: small writes, each durable before the next."""

from . import Workload

FILE_BYTES = 64 << 20


class SyncedWrites(Workload):
    group = "synced"

    def __init__(self, what, operation, write_bytes):
        self.what, self.operation, self.write_bytes = what, operation, write_bytes
        self.name = f"synced-{what}"
        self.overwrites = operation == "overwrite-fdatasync"
        # On the bare device: the device's own time, which is the limit for all.
        self.needs_files = not self.overwrites

    def _file_bytes(self, trial):
        return min(FILE_BYTES, trial.sizes.fio_file_bytes)

    def prepare(self, trial):
        if self.overwrites and trial.competitor.has_files:
            trial.new_folder()
            trial.run_fio(rw="write", bs=1 << 20, size=self._file_bytes(trial), ioengine="psync",
                          end_fsync=1, filename=trial.folder / "data")

    def measure(self, trial):
        count = trial.sizes.synced_operations
        if not self.overwrites:
            trial.new_folder()
            trial.load(self.what, self.operation, unit="us", count=count, bytes=self.write_bytes)
            trial.remove_folder()
            return
        path = trial.folder / "data" if trial.competitor.has_files else trial.competitor.image
        trial.load(self.what, self.operation, path, unit="us", count=count,
                   bytes=self.write_bytes, file_bytes=self._file_bytes(trial),
                   direct=not trial.competitor.has_files)


def workloads(_setup):
    return [SyncedWrites("append-512", "append-fsync", 512),
            SyncedWrites("overwrite-4k", "overwrite-fdatasync", 4096),
            SyncedWrites("create-4k", "create-fsync", 4096)]
