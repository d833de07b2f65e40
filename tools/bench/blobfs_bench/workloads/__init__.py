"""What is done on each competitor. One module per group; a workload's metrics are named
GROUP.WHAT."""

import fnmatch


class Workload:
    """One thing to do. A workload may measure several metrics, phase by phase."""

    group = ""
    name = ""          # GROUP-VARIANT: names its folder, too
    rounds = None      # at most so many rounds; None: as many as the run has
    tools = ()         # programs whose time is measured, their start included
    needs_data = False  # useless on a competitor that keeps no data
    needs_files = True  # useless on a bare device

    def require(self, programs):
        """Raises Unavailable where the workload cannot be done at all."""

    def unfit(self, competitor):
        """Why it makes no sense on a competitor; None when it does."""
        if self.needs_files and not competitor.has_files:
            return "a bare device has no files"
        if self.needs_data and not competitor.keeps_data:
            return "it keeps no data"
        return None

    def prepare(self, trial):
        """Once for each competitor, before the first round."""

    def measure(self, trial):
        """In each round."""

    def matches(self, pattern):
        return (pattern == self.group or fnmatch.fnmatchcase(self.name, pattern)
                or fnmatch.fnmatchcase(f"{self.group}.{self.name}", pattern))


def all_workloads(setup):
    """Every workload of a run, in the order in which they are done."""
    from . import (device, fio_io, floor, growth, idle, programs_at_work, small_files, synced_writes,
                   trees, verify)
    modules = (floor, fio_io, synced_writes, small_files, trees, programs_at_work, device, verify,
               idle, growth)
    return [workload for module in modules for workload in module.workloads(setup)]
