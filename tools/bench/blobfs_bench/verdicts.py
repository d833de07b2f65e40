"""The targets, and whether they are met. Ratios of medians; those of latencies are the other way
round, so that more is always faster."""

import re
from dataclasses import dataclass

from .explanation import explain

MIB = 1 << 20
# Groups that say how fast something is, on which all are compared.
SPEED_GROUPS = ("direct", "buffered", "synced", "names", "trees", "git", "compile", "sqlite",
                "verify")


@dataclass
class Verdict:
    target: int
    what: str
    asked: str
    measured: str
    met: bool | None


def judge(results, facts):
    """The verdicts on all targets of which something was measured."""
    found = []
    for judge_one in (_memory_medium, _names, _synced, _direct, _explained, _fuse2fs,
                      _growth, _blobstore):
        found += [verdict for verdict in judge_one(results) if verdict]
    found += [verdict for verdict in _memory(results, facts) if verdict]
    return sorted(found, key=lambda verdict: verdict.target)


def _times_as_fast(results, target, name, competitor, other, least):
    """At least so many times as fast as another one."""
    metric = results.get(name)
    speed = metric.speed(competitor, other) if metric else None
    if speed is None:
        return None
    return Verdict(target, f"{name}: {competitor} to {other}", f"at least {least:g} x",
                   f"{speed:.2f} x", speed >= least)


def _memory_medium(results):
    for kind in ("randread", "randwrite"):
        metric = results.get(f"direct.{kind}-4k-qd1")
        speed = metric.speed("blobfs-mem", "empty") if metric else None
        if speed:
            yield Verdict(1, f"{metric.name}: latency of blobfs-mem to empty", "at most 1.15 x",
                          f"{1 / speed:.2f} x", 1 / speed <= 1.15)
        yield _times_as_fast(results, 1, f"direct.{kind}-4k-qd32", "blobfs-mem", "empty", 0.85)
    for kind in ("read", "write"):
        yield _times_as_fast(results, 1, f"direct.{kind}-1m", "blobfs-mem", "empty", 0.85)


def _names(results):
    for name in results.metrics:
        what = name.removeprefix("names.").split(".")[0]
        if name.startswith("names.") and what in ("create", "unlink", "rename",
                                                  "open-read-close-cold", "stat-cold"):
            yield _times_as_fast(results, 2, name, "blobfs", "empty", 0.8)


def _synced(results):
    for what, least in (("append-512", 2), ("create-4k", 2), ("overwrite-4k", 1.2)):
        for other in ("ext4", "xfs"):
            yield _times_as_fast(results, 3, f"synced.{what}", "blobfs", other, least)
    for journal in ("delete", "wal"):
        for other in ("ext4", "xfs"):
            yield _times_as_fast(results, 3, f"sqlite.insert-{journal}", "blobfs", other, 1.2)
    # What it must cost at least: a write and a flush of the device, and the messages.
    device = results.get("synced.overwrite-4k")
    device_us = device.median("raw") if device else None
    for what in ("append-512", "create-4k", "overwrite-4k"):
        metric = results.get(f"synced.{what}")
        mine, messages = (metric.median(name) if metric else None for name in ("blobfs", "empty"))
        if device_us and mine and messages:
            limit = device_us + messages
            yield Verdict(3, f"synced.{what}: distance to the limit", "to be told",
                          f"{mine:.0f} us of {limit:.0f} us (device {device_us:.0f} + messages "
                          f"{messages:.0f}): {mine / limit:.2f} x", None)


def _direct(results):
    for other in ("ext4", "xfs"):
        yield _times_as_fast(results, 4, "direct.randwrite-4k-qd32", "blobfs", other, 1.5)
    yield _times_as_fast(results, 4, "direct.randread-4k-qd32", "blobfs", "raw", 0.95)
    for kind in ("randread", "randwrite"):
        metric = results.get(f"direct.{kind}-4k-qd1")
        if not metric:
            continue
        mine, raw, empty = (metric.median(name) for name in ("blobfs", "raw", "empty"))
        if mine and raw and empty:
            limit = raw + 1.15 * empty
            yield Verdict(4, f"{metric.name}: latency", f"at most raw + 1.15 x empty = {limit:.1f} us",
                          f"{mine:.1f} us", mine <= limit)
    for name in ("direct.read-1m", "direct.write-1m", "buffered.read-1m-cold",
                 "buffered.read-1m-warm", "buffered.write-1m"):
        metric = results.get(name)
        best = metric.best(("ext4", "xfs")) if metric else None
        if best:
            yield _times_as_fast(results, 4, name, "blobfs", best, 0.95)


def _explained(results):
    for found in explain(results):
        yield Verdict(5, f"{found.metric}: gap to ext4",
                      f"at most what the floor explains: {found.floor:.3g} s",
                      f"{found.gap:.3g} s (own time {found.own:.3g} s)", found.gap <= found.floor)


def _fuse2fs(results):
    speeds = {metric.name: metric.speed("blobfs", "fuse2fs")
              for metric in results.metrics.values() if metric.group() in SPEED_GROUPS}
    speeds = {name: speed for name, speed in speeds.items() if speed is not None}
    if not speeds:
        return
    below = sorted((speed, name) for name, speed in speeds.items() if speed < 3)
    yield Verdict(6, f"{len(speeds)} workloads: blobfs to fuse2fs", "at least 3 x each",
                  f"{len(speeds) - len(below)} are"
                  + "".join(f"; {name} {speed:.2f} x" for speed, name in below), not below)


def _at_sizes(results, name):
    """{files: metric} of the metrics NAME@FILES."""
    found = {}
    for metric in results.metrics.values():
        match = re.fullmatch(re.escape(name) + r"@(\d+)", metric.name)
        if match and metric.median("blobfs") is not None:
            found[int(match.group(1))] = metric
    return found


def _growth(results):
    for where in ("one-dir", "many-dirs"):
        for what in ("create", "lookup", "unlink", "lookup-cold", "lookup-cold-in-order",
                     "unlink-cold"):
            sizes = _at_sizes(results, f"growth.{what}.{where}")
            if len(sizes) < 2:
                continue
            few, many = (sizes[choose(sizes)] for choose in (min, max))
            measured = ", ".join(
                f"{name + ' ' if name != 'blobfs' else ''}{after / before:.2f} x "
                f"({before:.1f} us to {after:.1f} us)"
                for name in ("blobfs", "ext4", "xfs")
                if (before := few.median(name)) and (after := many.median(name)))
            yield Verdict(7, f"growth.{what}.{where}: with {max(sizes):,} files to {min(sizes):,}",
                          "at most 1.3 x", measured,
                          many.median("blobfs") / few.median("blobfs") <= 1.3)
        for name, most, unit in (("mount-after-crash", 2, "s"),
                                 ("device-bytes-per-file", 1536, "B")):
            sizes = _at_sizes(results, f"growth.{name}.{where}")
            if sizes:
                value = sizes[max(sizes)].median("blobfs")
                yield Verdict(7, f"growth.{name}.{where} with {max(sizes):,} files",
                              f"at most {most} {unit}", f"{value:.4g} {unit}", value <= most)


def cache_bytes(facts):
    """What blobfs-fuse takes for metadata when it is not told (blobfs-fuse(8))."""
    return min(max(facts["memory_bytes"] / 16, 32 * MIB), 512 * MIB)


def _memory(results, facts):
    limit = cache_bytes(facts) / MIB
    for where in ("one-dir", "many-dirs"):
        sizes = _at_sizes(results, f"growth.memory.{where}")
        before = _at_sizes(results, f"growth.memory-mounted.{where}")
        if sizes and max(sizes) in before:
            most = max(sizes)
            grown = sizes[most].median("blobfs") - before[most].median("blobfs")
            yield Verdict(7, f"growth.memory.{where} with {most:,} files, beyond that of a new mount",
                          f"at most --cache-size, {limit:.0f} MiB", f"{grown:.0f} MiB",
                          grown <= limit)


def _blobstore(results):
    driver, blob = (results.get(f"device.{name}-randread-4k-qd32") for name in ("driver", "blob"))
    if driver and blob:
        ratio = blob.median("blobfs-mem") / driver.median("blobfs-mem")
        yield Verdict(8, "blob random read to the raw driver, in memory", "at least 0.9 x",
                      f"{ratio:.2f} x", ratio >= 0.9)
