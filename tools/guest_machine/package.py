"""Debian packages fetched once and unpacked into a cache that all checkouts of a user share; nothing
is installed."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import Unavailable


def cache_directory():
    """Where the unpacked packages are kept: $XDG_CACHE_HOME/blobfs/guest."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "blobfs" / "guest"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run(command, package, **options):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout
    except FileNotFoundError:
        raise Unavailable(f"{package} comes from a Debian package, and there is no {command[0]} "
                          "here") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["it failed"]
        raise Unavailable(f"{' '.join(command)} (apt-get update?): {said[-1]}") from None


def dependencies(package):
    """What apt says that the package depends on: lines of text."""
    return _run(["apt-cache", "depends", package], package)


def unpacked(folder, choose, file=None):
    """The folder of the cache with the package that choose() names, or that a file is; unpacked if
    that has not been done before. Raises Unavailable."""
    cache = cache_directory()
    root = cache / folder
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            if file is None:
                package = choose()
                _run(["apt-get", "download", package], package, cwd=scratch)
                file = next(Path(scratch).glob("*.deb"))
            unpacked_there = Path(scratch) / "unpacked"
            _run(["dpkg", "-x", str(file), str(unpacked_there)], file)
            shutil.move(unpacked_there, root)
    return root
