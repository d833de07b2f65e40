"""What trees, repositories and programs are made of: real files of this machine, so that a run needs
no network and two runs on one machine do the same."""

import os
import subprocess
import tarfile
from pathlib import Path

from . import Unavailable

DEFAULT_TREE = "/usr/include"
GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z", "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost", "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "gc.auto", "GIT_CONFIG_VALUE_0": "0",
    "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*",
    "GIT_CONFIG_KEY_2": "maintenance.auto", "GIT_CONFIG_VALUE_2": "false",
}


def _files_below(folder, most):
    """Paths of regular files, in the order of their names, at most so many."""
    found = []
    for path, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if len(found) == most:
                return found
            if Path(path, name).is_file():
                found.append(Path(path, name))
    return found


class Corpus:
    """Made on first use, in the run's directory."""

    def __init__(self, scratch, tree, most_files, source):
        self._folder = scratch.folder("corpus")
        self._tree = Path(tree or DEFAULT_TREE)
        self._most_files = most_files
        self._source = Path(source)

    def tree_archive(self):
        """A tar file of the source tree, in the page cache."""
        path = self._folder / "tree.tar"
        if not path.exists():
            files = _files_below(self._tree, self._most_files)
            if not files:
                raise Unavailable(f"there are no files in {self._tree}; name a --tree")
            with tarfile.open(path, "w") as archive:
                for file in files:
                    archive.add(file, str(file.relative_to(self._tree)))
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
        return path

    def repository(self, run):
        """A bare git repository with the tree in it, on two branches: "first", and "second", in
        which every fifth file is another."""
        path = self._folder / "repository.git"
        if not path.exists():
            work = self._folder / "work"
            work.mkdir()
            run(["tar", "-xf", self.tree_archive(), "-C", work])
            options = {"cwd": work, "environment": GIT_ENVIRONMENT}
            run(["git", "init", "-q", "-b", "first"], **options)
            run(["git", "add", "-A", "--force"], **options)
            run(["git", "commit", "-qm", "first"], **options)
            run(["git", "checkout", "-qb", "second"], **options)
            files = [file for file in _files_below(work, None) if ".git" not in file.parts]
            for file in files[::5]:
                with open(file, "a", encoding="utf-8") as text:
                    text.write("changed\n")
            run(["git", "commit", "-qam", "second"], **options)
            run(["git", "clone", "-q", "--bare", work, path], environment=GIT_ENVIRONMENT)
            subprocess.run(["rm", "-rf", work], check=True)
        return path

    def project_archive(self):
        """A tar file of this project's sources."""
        if not (self._source / "CMakeLists.txt").exists():
            raise Unavailable("compiling needs this project's sources: start blobfs-bench from them")
        path = self._folder / "project.tar"
        if not path.exists():
            with tarfile.open(path, "w") as archive:
                for name in sorted(os.listdir(self._source)):
                    if name not in ("build", ".git"):
                        archive.add(self._source / name, name)
        return path
