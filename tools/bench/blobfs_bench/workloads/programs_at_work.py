"""Groups `git`, `compile` and `sqlite`: what programs do that people use."""

import os
import sqlite3

from ..corpus import GIT_ENVIRONMENT
from . import Workload


class Git(Workload):
    """The repository lies on the measured filesystem, as it does for people."""

    group = "git"
    name = "git"
    tools = ("git",)
    needs_data = True

    def require(self, programs):
        programs.need("git")

    def measure(self, trial):
        repository = trial.setup.corpus.repository(trial.run)
        trial.remove_folder()
        trial.run(["git", "clone", "-q", "--no-local", "--no-checkout", repository, trial.folder],
                  environment=GIT_ENVIRONMENT)

        def git(*words):
            trial.run(["git", *words], cwd=trial.folder, environment=GIT_ENVIRONMENT)

        with trial.measured("checkout", "s"):
            git("checkout", "-q", "first")
        trial.forget_caches()
        with trial.measured("status-cold", "s"):
            git("status", "--short")
        with trial.measured("status-warm", "s"):
            git("status", "--short")
        with trial.measured("switch", "s"):
            git("checkout", "-q", "second")
        trial.remove_folder()


class Compile(Workload):
    """Configures this project and builds a library of it."""

    group = "compile"
    name = "compile"
    tools = ("cmake", "ninja", "c++")
    needs_data = True
    rounds = 2

    def require(self, programs):
        for name in ("cmake", "ninja", "c++"):
            programs.need(name)

    def measure(self, trial):
        archive = trial.setup.corpus.project_archive()
        trial.new_folder()
        trial.run(["tar", "-xf", archive, "-C", trial.folder])
        build = trial.folder / "build-here"
        environment = {"CCACHE_DISABLE": "1"}
        target = "blobfs_driver_base" if trial.sizes.quick else "blobfs_driver_reactor"
        trial.forget_caches()
        with trial.measured("configure", "s"):
            trial.run(["cmake", "-S", trial.folder, "-B", build, "-G", "Ninja",
                       "-DCMAKE_BUILD_TYPE=Debug", "-DBUILD_TESTING=OFF"],
                      environment=environment)
        with trial.measured("build", "s"):
            trial.run(["cmake", "--build", build, "--target", target,
                       "-j", str(len(os.sched_getaffinity(0)))], environment=environment)
        trial.remove_folder()


class Sqlite(Workload):
    """Rows inserted in a transaction each, in both kinds of journal, each made durable."""

    group = "sqlite"
    name = "sqlite"

    def measure(self, trial):
        trial.new_folder()
        for journal in ("delete", "wal"):
            database = sqlite3.connect(trial.folder / f"{journal}.db", isolation_level=None)
            try:
                database.execute(f"pragma journal_mode={journal}")
                database.execute("pragma synchronous=full")
                database.execute("create table row (number integer primary key, text text)")
                with trial.measured(f"insert-{journal}", "op/s", True) as measurement:
                    for number in range(trial.sizes.rows):
                        database.execute("insert into row values (?, ?)", (number, "x" * 100))
                    measurement.operations = trial.sizes.rows
            finally:
                database.close()
        trial.remove_folder()


def workloads(setup):
    found = [Git(), Sqlite()]
    if setup.sizes.compiles:
        found.append(Compile())
    return found
