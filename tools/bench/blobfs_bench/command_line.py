"""Options, and what a run is made of."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from . import Failed, Unavailable, competitors, machine, report
from .corpus import Corpus
from .programs import Programs
from .runner import Progress, Runner
from .scratch import Scratch
from .setup import FULL, QUICK, SMOKE, Setup
from .workloads import all_workloads

BUSY_LOAD = 0.5  # from this load average on, others disturb the measurement

DESCRIPTION = """\
Compares blobfs, on a file and on memory, with an empty FUSE filesystem, ext4 and XFS on loop
devices with direct I/O, fuse2fs, and the file itself: each workload on all of them in turn, in
rounds. Prints a report in Markdown, with the targets and whether they are met."""


def size(text):
    for suffix, shift in (("K", 10), ("M", 20), ("G", 30), ("T", 40)):
        number = text.removesuffix("iB").removesuffix(suffix)
        if number != text.removesuffix("iB"):
            return int(number) << shift
    return int(text)


def names(text):
    return [word for word in text.split(",") if word]


def version(source):
    cmake = Path(source) / "CMakeLists.txt"
    if cmake.exists():
        for line in cmake.read_text(encoding="utf-8").splitlines():
            if line.startswith("project(blobfs VERSION "):
                return line.split()[2]
    installed = Programs().find("blobfs-bench-load")
    said = machine.first_line([installed, "--version"]) if installed else None
    return said.split()[-1] if said else "of unknown version"


def parse(arguments, source):
    parser = argparse.ArgumentParser(
        prog="blobfs-bench", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Competitors: " + ", ".join(competitors.NAMES))
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true",
                        help="one round of small sizes: a few minutes")
    effort.add_argument("--smoke", action="store_true",
                        help="seconds: shows that everything works, its figures mean nothing")
    parser.add_argument("--only", type=names, default=[], metavar="NAME,...",
                        help="groups or workloads, patterns allowed: direct,names-one-*")
    parser.add_argument("--skip", type=names, default=[], metavar="NAME,...",
                        help="leave these out")
    parser.add_argument("--competitors", type=names, default=list(competitors.NAMES),
                        metavar="NAME,...", help="compare only these")
    parser.add_argument("--floor", choices=("best", "blocking", "spinning"), default="best",
                        help="which of the empty filesystems the floor is: the better one of each "
                             "metric (the default), or always the same")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often to do everything")
    parser.add_argument("--size", type=size, metavar="SIZE",
                        help="bytes of each image, such as 4G")
    parser.add_argument("--files", type=int, metavar="N",
                        help="the most files of the growth workload")
    parser.add_argument("--tree", metavar="DIR",
                        help="source tree to pack, copy and search (default: /usr/include)")
    parser.add_argument("--directory", metavar="DIR",
                        help="where the images are made (default: /var/tmp)")
    parser.add_argument("--build", metavar="DIR",
                        help="build directory of the programs under test (default: build/release "
                             "of the source tree; else the installed ones)")
    parser.add_argument("--blobfs-options", metavar="OPTIONS", default="",
                        help="further arguments of blobfs-fuse, such as '--poll always'")
    parser.add_argument("--json", metavar="FILE", help="all results, for programs; - for standard "
                                                       "output, without the report")
    parser.add_argument("--output", metavar="FILE", help="the report goes there")
    parser.add_argument("--plot", metavar="DIR", help="an SVG of each group goes there")
    parser.add_argument("--from-json", metavar="FILE",
                        help="measure nothing: report an earlier run")
    parser.add_argument("--compare", metavar="FILE",
                        help="the --json of an earlier run: add what is faster or slower now")
    parser.add_argument("--list", action="store_true", help="print the workloads and exit")
    parser.add_argument("-V", "--version", action="version",
                        version=f"blobfs-bench (blobfs) {version(source)}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.competitors if name not in competitors.NAMES]
    if unknown:
        parser.error(f"there is no competitor {unknown[0]}; there are {', '.join(competitors.NAMES)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def sizes_of(options):
    sizes = dataclasses.replace(SMOKE if options.smoke else QUICK if options.quick else FULL)
    if options.rounds:
        sizes.rounds = options.rounds
    if options.size:
        sizes.image_bytes = options.size
        sizes.fio_file_bytes = min(sizes.fio_file_bytes, options.size // 4)
    if options.files:
        first = min(sizes.growth[0], options.files)
        sizes.growth = tuple(n for n in sizes.growth if n < options.files) + (options.files,)
        sizes.growth_sample = min(sizes.growth_sample, first)
    return sizes


def choose(workloads, options):
    chosen = [workload for workload in workloads
              if (not options.only or any(workload.matches(word) for word in options.only))
              and not any(workload.matches(word) for word in options.skip)]
    if not chosen:
        raise Unavailable("no workload is left; see --list")
    return chosen


def build_folder(options, source):
    if options.build:
        if not Path(options.build).is_dir():
            raise Unavailable(f"--build {options.build}: there is no such directory")
        return options.build
    default = Path(source) / "build/release"
    return default if default.is_dir() else None


def check_space(directory, sizes, number):
    wanted = sizes.image_bytes * number
    free = shutil.disk_usage(directory).free
    if free < wanted * 1.1:
        raise Unavailable(f"{directory} has {free >> 20} MiB free, the images need "
                          f"{wanted >> 20} MiB; name another --directory, or a smaller --size")


def measure(options, source, progress):
    """A whole run; the report's data."""
    programs = Programs(build_folder(options, source))
    programs.need("blobfs-bench-load")
    sizes = sizes_of(options)
    parent = options.directory or ("/var/tmp" if os.path.isdir("/var/tmp")
                                   else tempfile.gettempdir())
    kinds = [kind for kind in competitors.ALL if kind.name in options.competitors]
    check_space(parent, sizes, sum(kind.on_image for kind in kinds))
    facts = machine.facts(parent, programs)
    if facts["load_at_start"][0] > BUSY_LOAD:
        progress.note(f"the machine is busy (load {facts['load_at_start'][0]:.1f}): the figures "
                      "will be worse and spread more than on a quiet one")
    if not machine.is_root():
        progress.note("not root: caches cannot be dropped, loop devices not be mounted")
    with Scratch(parent) as scratch:
        corpus = Corpus(scratch, options.tree, sizes.tree_files, source)
        setup = Setup(scratch, programs, sizes, corpus, options.blobfs_options.split())
        runner = Runner(setup, choose(all_workloads(setup), options), kinds, progress)
        interrupted = False
        try:
            runner.run()
        except KeyboardInterrupt:
            interrupted = True
            progress.note("interrupted; what there is follows")
        finally:
            runner.stop()
    facts["load_at_end"] = os.getloadavg()
    return report.collect(facts, sizes, runner, options.floor, interrupted)


def load_json(path):
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("format") != report.FORMAT:
        raise Unavailable(f"{path} is not a result of this blobfs-bench")
    return data


def write(path, text):
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, encoding="utf-8")


def end_by_signal(number, _frame):
    raise SystemExit(128 + number)


def main(arguments=None, source="."):
    options = parse(arguments, source)
    progress = Progress()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_by_signal)
    try:
        if options.list:
            setup = Setup(None, None, sizes_of(options), None)
            for workload in choose(all_workloads(setup), options):
                print(workload.name)
            return 0
        if options.from_json:
            data = load_json(options.from_json)
        else:
            data = measure(options, source, progress)
        progress.done()
        if options.json:
            write(options.json, json.dumps(data, indent=1) + "\n")
        if options.json != "-":
            text = report.markdown(data)
            if options.compare:
                text += "\n" + report.comparison(data, load_json(options.compare))
            write(options.output or "-", text)
        if options.plot:
            from . import plot
            plot.write(data, Path(options.plot))
    except (Unavailable, Failed, OSError, ValueError) as reason:
        progress.done()
        print(f"blobfs-bench: {reason}", file=sys.stderr)
        return 1
    if data["interrupted"]:
        return 130
    return 1 if data["failed"] else 0
