"""Measured values, medians, spread, ratios."""

import statistics
from dataclasses import asdict, dataclass, field


@dataclass
class Sample:
    """One measurement of one metric on one competitor. `value` has the metric's unit."""

    value: float
    seconds: float
    operations: int = 0
    daemon_seconds: float | None = None   # processor time of the daemon; None without one
    machine_seconds: float | None = None  # of the whole machine, whoever else was at work included
    requests: dict | None = None          # by name, where somebody counts them
    bytes_read: int = 0                   # by these requests
    bytes_written: int = 0
    details: dict = field(default_factory=dict)  # such as percentiles


@dataclass
class Metric:
    """What is measured: samples of each competitor that could be measured."""

    name: str
    unit: str
    higher_is_better: bool
    samples: dict = field(default_factory=dict)  # competitor -> [Sample]

    def group(self):
        return self.name.split(".")[0]

    def values(self, competitor):
        return [sample.value for sample in self.samples.get(competitor, ())]

    def median(self, competitor):
        """None where there is no sample."""
        values = self.values(competitor)
        return statistics.median(values) if values else None

    def typical(self, competitor):
        """The sample in the middle, of two the first; None where there is none."""
        samples = sorted(self.samples.get(competitor, ()), key=lambda sample: sample.value)
        return samples[(len(samples) - 1) // 2] if samples else None

    def spread(self, competitor):
        """How far the samples lie apart: (largest - smallest) / median; None with fewer than two."""
        values = self.values(competitor)
        middle = self.median(competitor)
        if len(values) < 2 or not middle:
            return None
        return (max(values) - min(values)) / middle

    def best(self, competitors):
        """Of these the one with the best median, or None."""
        measured = [name for name in competitors if self.median(name) is not None]
        choose = max if self.higher_is_better else min
        return choose(measured, key=self.median) if measured else None

    def speed(self, competitor, other):
        """How many times as fast as another one; None where either is missing."""
        mine, its = self.median(competitor), self.median(other)
        if not mine or not its:
            return None
        return mine / its if self.higher_is_better else its / mine

    def to_json(self):
        return {
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "competitors": {
                name: {"median": self.median(name), "spread": self.spread(name),
                       "samples": [asdict(sample) for sample in samples]}
                for name, samples in self.samples.items()
            },
        }

    @staticmethod
    def from_json(name, data):
        metric = Metric(name, data["unit"], data["higher_is_better"])
        for competitor, found in data["competitors"].items():
            metric.samples[competitor] = [Sample(**sample) for sample in found["samples"]]
        return metric


class Results:
    """All metrics of a run, in the order in which they were first measured."""

    def __init__(self):
        self.metrics = {}
        self.skipped = {}  # (workload, competitor) -> why
        self.failed = {}   # the same, for what went wrong

    def add(self, competitor, name, unit, higher_is_better, sample):
        metric = self.metrics.setdefault(name, Metric(name, unit, higher_is_better))
        metric.samples.setdefault(competitor, []).append(sample)

    def get(self, name):
        return self.metrics.get(name)

    def groups(self):
        return list(dict.fromkeys(metric.group() for metric in self.metrics.values()))
