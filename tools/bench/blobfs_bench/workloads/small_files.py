"""Group `names`: small files, one kind of operation after the other."""

from . import Workload

FILE_BYTES = 1024
READ_BYTES = 4096


class SmallFiles(Workload):
    """create, write, stat, open-read-close (both cold, and stat again warm), rename, unlink."""

    group = "names"

    def __init__(self, directories, processes):
        self.directories, self.processes = directories, processes
        where = "one-dir" if directories == 0 else "many-dirs"
        self.variant = f"{where}-{processes}p"
        self.name = f"names-{self.variant}"

    def measure(self, trial):
        trial.new_folder()
        count = trial.sizes.files // self.processes

        def load(what, operation, **options):
            trial.load(what and f"{what}.{self.variant}", operation, count=count,
                       processes=self.processes, directories=self.directories, **options)

        load("create", "create")
        load("write-1k", "write", bytes=FILE_BYTES)
        trial.forget_caches()
        load("stat-cold", "stat", shuffled=True)
        load("stat-warm", "stat", shuffled=True, settle=False)
        trial.forget_caches()
        load("open-read-close-cold", "open-read-close", bytes=READ_BYTES, shuffled=True)
        load("open-read-close-warm", "open-read-close", bytes=READ_BYTES, shuffled=True,
             settle=False)
        load("rename", "rename", shuffled=True)
        load("unlink", "unlink-renamed", shuffled=True)
        trial.remove_folder()


def workloads(setup):
    found = []
    for directories in (0, 100):
        for processes in (1, 4):
            if not setup.sizes.quick or (directories == 0 and processes == 1):
                found.append(SmallFiles(directories, processes))
    return found
