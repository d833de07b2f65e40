"""What the empty filesystem explains of a workload: requests times their cost.

What a kind of request costs comes from the group `floor`: the time of a system call on the empty
filesystem that makes the kernel send that request, less the requests whose cost is known. It holds
the kernel's own share too, which a filesystem in the kernel pays as well, and takes requests that
the kernel sends while the program goes on (read-ahead, write-back) as if it waited: so it is what
the floor explains at most.
"""

from dataclasses import dataclass

FLOOR = "empty"
# Metric of the group `floor` -> the request that it is about. In this order each needs only costs
# that are known by then.
KNOWN_BY = {"lookup": "LOOKUP", "create": "CREATE", "setattr": "SETATTR", "write": "WRITE",
            "read": "READ", "rename": "RENAME2", "unlink": "UNLINK", "mkdir": "MKDIR",
            "rmdir": "RMDIR", "symlink": "SYMLINK", "readdirplus": "READDIRPLUS"}
LIKE = {"RENAME": "RENAME2", "MKNOD": "CREATE", "TMPFILE": "CREATE", "READDIR": "READDIRPLUS"}
# What a metric holds besides requests: starting the program.
START = {"readdirplus": "find-nothing"}
# Nobody waits for these.
FREE = ("FORGET", "BATCH_FORGET", "INTERRUPT", "INIT", "DESTROY")
EXPLAINED_GROUPS = ("trees", "git", "compile")


class FloorCosts:
    """Seconds of a request of each kind, and of each byte read or written."""

    def __init__(self, results):
        self.seconds = {}
        self.read_byte = self.write_byte = 0.0
        self.daemon_seconds = 0.0  # processor time of the empty daemon for a request
        self._daemon = [0.0, 0]
        for what, request in KNOWN_BY.items():
            self._learn(results, what, request)
        self.read_byte = self._byte(results, "read-1m", "bytes_read")
        self.write_byte = self._byte(results, "write-1m", "bytes_written")
        if self._daemon[1]:
            self.daemon_seconds = self._daemon[0] / self._daemon[1]

    def __bool__(self):
        return "LOOKUP" in self.seconds

    def _sample(self, results, what):
        metric = results.get(f"floor.{what}")
        return metric.typical(FLOOR) if metric else None

    def _learn(self, results, what, request):
        sample = self._sample(results, what)
        if not sample or not sample.requests:
            return
        number = rest = 0
        for other, count in sample.requests.items():
            if LIKE.get(other, other) == request:
                number += count
            else:
                rest += self.of(other) * count
        if not number:
            return
        start = self._sample(results, START.get(what))
        rest += start.seconds if start else 0
        self.seconds[request] = max(sample.seconds - rest, 0) / number
        # A daemon that spins uses processor time whether or not there is work.
        blocking = results.get(f"floor.{what}").typical("empty-blocking")
        if blocking and blocking.requests:
            self._daemon[0] += blocking.daemon_seconds
            self._daemon[1] += sum(blocking.requests.values())

    def _byte(self, results, what, attribute):
        sample = self._sample(results, what)
        number = getattr(sample, attribute) if sample else 0
        if not number:
            return 0.0
        rest = sum(self.of(name) * count for name, count in sample.requests.items())
        return max(sample.seconds - rest, 0) / number

    def of(self, request):
        """Of a request of that kind; those that were not measured are taken for lookups."""
        if request in FREE:
            return 0.0
        request = LIKE.get(request, request)
        return self.seconds.get(request, self.seconds.get("LOOKUP", 0.0))

    def total(self, sample):
        """Of all requests of a sample."""
        return (sum(self.of(name) * count for name, count in sample.requests.items())
                + sample.bytes_read * self.read_byte + sample.bytes_written * self.write_byte)


@dataclass
class Explanation:
    """Of one metric, in seconds."""

    metric: str
    measured: float
    other: float     # ext4's
    gap: float       # measured - other
    requests: dict
    floor: float     # requests x their cost on the empty filesystem
    own: float       # the daemon's processor time beyond what the empty one would use
    rest: float      # what neither explains: waiting for the device, or, negative, overlap


def explain(results, competitor="blobfs", other="ext4"):
    """An Explanation of each metric of the groups that people's programs are in."""
    costs = FloorCosts(results)
    if not costs:
        return []
    found = []
    for metric in results.metrics.values():
        sample = metric.typical(competitor)
        its = metric.median(other)
        if (metric.group() not in EXPLAINED_GROUPS or metric.unit != "s" or not sample
                or not sample.requests or its is None):
            continue
        floor = costs.total(sample)
        empty = costs.daemon_seconds * sum(sample.requests.values())
        own = max((sample.daemon_seconds or 0) - empty, 0)
        gap = sample.value - its
        found.append(Explanation(metric.name, sample.value, its, gap, sample.requests, floor, own,
                                 gap - floor - own))
    return found
