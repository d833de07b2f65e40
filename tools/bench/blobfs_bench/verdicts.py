"""The targets, and whether they are met."""

from dataclasses import dataclass


@dataclass
class Verdict:
    target: int
    what: str
    asked: str
    measured: str
    met: bool | None


def judge(results):
    """The verdicts on all targets of which something was measured."""
    found = []
    for judge_one in (_memory_medium, _names, _synced, _direct):
        found += [verdict for verdict in judge_one(results) if verdict]
    return found


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
