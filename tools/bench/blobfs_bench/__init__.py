"""Filesystems side by side on one machine: the program blobfs-bench, its modules in the order in
which a run meets them.

command_line  options, and what a run is made of
programs      where the programs under test and the other tools are
machine       facts about the machine, its load, its caches, its processors' time
scratch       the run's directory: whatever happens, nothing of the run is left behind
process       daemons and commands that the run starts
competitors   what is compared: each makes, mounts, remounts and ends its filesystem
corpus        the source tree, the repository and the program that workloads take
workloads     what is done on each of them
trial         one workload on one competitor, measured
runner        rounds over workloads and competitors
samples       measured values, medians, spread, ratios
explanation   what the empty filesystem explains of a workload: requests times their cost
verdicts      the targets, and whether they are met
report, plot  Markdown, JSON, SVG
"""


class Unavailable(Exception):
    """Something cannot be had on this machine; the text says why and what would help."""


class Failed(Exception):
    """A step of the run went wrong; the text says which and how."""
