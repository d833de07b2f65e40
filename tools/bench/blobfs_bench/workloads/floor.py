"""Group `floor`: what each kind of request costs on the empty filesystem, which explains what the
others' cost (explanation.py)."""

from . import Workload

LARGE_BYTES = 1 << 20
LARGE_FILES = 32
FILES_PER_DIRECTORY = 15


class Floor(Workload):
    group = "floor"
    name = "floor"
    tools = ("find",)

    def unfit(self, competitor):
        if competitor.keeps_data:
            return "only for the empty filesystem"
        return super().unfit(competitor)

    def measure(self, trial):
        count = trial.sizes.files

        def load(what, operation, **options):
            trial.load(what, operation, unit="us", count=options.pop("count", count), **options)

        trial.new_folder()
        load("create", "create")
        load("setattr", "chmod")
        load("write", "write", bytes=1024)
        trial.forget_caches()
        load("lookup", "stat", shuffled=True)
        load("read", "open-read-close", bytes=4096, shuffled=True, settle=False)
        load("rename", "rename")
        load("unlink", "unlink-renamed")
        trial.new_folder()
        load("mkdir", "mkdir")
        load("rmdir", "rmdir")
        load("symlink", "symlink")
        # Directories as source trees have them: what a listing costs depends on its length.
        trial.new_folder()
        nothing = trial.folder / "nothing"
        nothing.mkdir()
        load(None, "create", directories=max(count // FILES_PER_DIRECTORY, 1))
        trial.forget_caches()
        with trial.measured("find-nothing", "s"):
            trial.run(["find", nothing])
        with trial.measured("readdirplus", "s"):
            trial.run(["find", trial.folder])
        trial.new_folder()
        load(None, "create", count=LARGE_FILES)
        load("write-1m", "write", count=LARGE_FILES, bytes=LARGE_BYTES)
        trial.forget_caches()
        load("read-1m", "open-read-close", count=LARGE_FILES, bytes=LARGE_BYTES)
        trial.remove_folder()


def workloads(_setup):
    return [Floor()]
