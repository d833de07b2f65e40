"""Group `trees`: a source tree is unpacked, searched, copied, deleted."""

from . import Workload


class SourceTree(Workload):
    group = "trees"
    name = "trees"
    tools = ("find", "cp", "rm")

    def measure(self, trial):
        archive = trial.setup.corpus.tree_archive()
        trial.new_folder()
        first, second = trial.folder / "first", trial.folder / "second"
        first.mkdir()
        with trial.measured("untar", "s"):
            trial.run(["tar", "-xf", archive, "-C", first])
        with trial.measured("sync-after-untar", "s", settle=False):
            trial.run(["sync", "-f", first])
        trial.forget_caches()
        # A condition that needs the attributes of each file.
        search = ["find", first, "-size", "+1000M"]
        with trial.measured("find-cold", "s"):
            trial.run(search)
        with trial.measured("find-warm", "s"):
            trial.run(search)
        trial.forget_caches()
        with trial.measured("cp-a", "s"):
            trial.run(["cp", "-a", first, second])
        trial.forget_caches()
        with trial.measured("rm-r", "s"):
            trial.run(["rm", "-r", second])
        trial.remove_folder()


def workloads(_setup):
    return [SourceTree()]
