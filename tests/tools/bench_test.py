"""blobfs-bench: its arithmetic and its report, on figures that are made up. What it does on real
filesystems is the scenario e2e.bench."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "tools/bench"
sys.path.insert(0, str(BENCH))

from blobfs_bench import Unavailable, command_line, report, scratch, verdicts  # noqa: E402
from blobfs_bench.explanation import FloorCosts, explain  # noqa: E402
from blobfs_bench.programs import Programs  # noqa: E402
from blobfs_bench.samples import Metric, Results, Sample  # noqa: E402
from blobfs_bench.workloads import all_workloads  # noqa: E402

FACTS = {"memory_bytes": 4 << 30}


def results(**figures):
    """Metrics by their names with "__" for "."; a figure is {competitor: value or values}; the
    unit "us" unless given as {"unit": ...}."""
    made = Results()
    for name, values in figures.items():
        unit = values.pop("unit", "us")
        for competitor, value in values.items():
            for one in value if isinstance(value, list) else [value]:
                sample = one if isinstance(one, Sample) else Sample(value=one, seconds=1)
                made.add(competitor, name.replace("__", ".").replace("_", "-"), unit,
                         unit in ("op/s", "IOPS", "MiB/s"), sample)
    return made


class MetricTest(unittest.TestCase):
    def metric(self, higher):
        return Metric("group.what", "", higher, {
            "a": [Sample(value, 1) for value in (30, 10, 20)],
            "b": [Sample(value, 1) for value in (40, 50)]})

    def test_median_and_spread(self):
        metric = self.metric(True)
        self.assertEqual(metric.median("a"), 20)
        self.assertEqual(metric.median("b"), 45)
        self.assertEqual(metric.spread("a"), 1)
        self.assertIsNone(metric.median("c"))
        self.assertEqual(metric.typical("a").value, 20)
        self.assertIsNone(Metric("", "", True, {"a": [Sample(1, 1)]}).spread("a"))

    def test_more_speed_is_more_of_rates_and_less_of_times(self):
        self.assertAlmostEqual(self.metric(True).speed("a", "b"), 20 / 45)
        self.assertAlmostEqual(self.metric(False).speed("a", "b"), 45 / 20)
        self.assertIsNone(self.metric(True).speed("a", "c"))
        self.assertEqual(self.metric(True).best(("a", "b", "c")), "b")
        self.assertEqual(self.metric(False).best(("a", "b", "c")), "a")
        self.assertIsNone(self.metric(False).best(("c",)))

    def test_what_goes_to_json_comes_back(self):
        metric = self.metric(False)
        again = Metric.from_json(metric.name, json.loads(json.dumps(metric.to_json())))
        self.assertEqual(again, metric)


class VerdictTest(unittest.TestCase):
    def judge(self, **figures):
        return {verdict.what.split(":")[0] + "/" + verdict.asked: verdict.met
                for verdict in verdicts.judge(results(**figures), FACTS)}

    def test_latency_on_memory_is_compared_the_right_way_round(self):
        name = "direct__randread_4k_qd1"
        for mine, met in ((11.4, True), (11.6, False), (5, True)):
            found = self.judge(**{name: {"blobfs-mem": mine, "empty": 10}})
            self.assertEqual(found["direct.randread-4k-qd1/at most 1.15 x"], met, mine)

    def test_latency_of_the_file_may_be_that_of_the_raw_file_and_the_floor(self):
        name = "direct__randwrite_4k_qd1"
        for mine, met in ((42, True), (44, False)):
            found = self.judge(**{name: {"blobfs": mine, "raw": 20, "empty": 20}})
            self.assertEqual(list(found.values()), [met], mine)

    def test_cold_operations_on_names_are_a_target_and_warm_ones_are_not(self):
        found = self.judge(names__stat_cold__one_dir={"unit": "op/s", "blobfs": 8.1, "empty": 10},
                           names__stat_warm__one_dir={"unit": "op/s", "blobfs": 1, "empty": 10},
                           names__create__one_dir={"unit": "op/s", "blobfs": 7.9, "empty": 10})
        self.assertEqual(found, {"names.stat-cold.one-dir/at least 0.8 x": True,
                                 "names.create.one-dir/at least 0.8 x": False})

    def test_the_distance_to_the_limit_is_told(self):
        found = [verdict for verdict in verdicts.judge(results(
            synced__overwrite_4k={"raw": 40, "blobfs": 75, "empty": 10},
            synced__append_512={"blobfs": 100, "empty": 10}), FACTS) if verdict.met is None]
        self.assertEqual([verdict.measured.split(": ")[1] for verdict in found],
                         ["2.00 x", "1.50 x"])

    def test_growth_compares_the_fewest_with_the_most_files(self):
        found = self.judge(**{"growth__create__one_dir@10": {"blobfs": 10},
                              "growth__create__one_dir@200": {"blobfs": 9},
                              "growth__create__one_dir@3000": {"blobfs": 13.1}})
        self.assertEqual(list(found.values()), [False])
        found = self.judge(**{"growth__create__one_dir@10": {"blobfs": 10},
                              "growth__create__one_dir@3000": {"blobfs": 12.9}})
        self.assertEqual(list(found.values()), [True])

    def test_growth_tells_the_factors_of_others_with_ours(self):
        found = verdicts.judge(results(
            **{"growth__lookup_cold__one_dir@10": {"blobfs": 10, "ext4": 5},
               "growth__lookup_cold__one_dir@3000": {"blobfs": 100, "ext4": 400}}), FACTS)
        self.assertEqual([(verdict.measured, verdict.met) for verdict in found],
                         [("10.00 x (10.0 us to 100.0 us), ext4 80.00 x (5.0 us to 400.0 us)",
                           False)])

    def test_metadata_memory_is_what_a_new_mount_does_not_have(self):
        for memory, met in ((300, True), (400, False)):
            found = self.judge(**{"growth__memory_mounted__one_dir@10": {"blobfs": 100},
                                  "growth__memory__one_dir@10": {"blobfs": memory}})
            self.assertEqual(list(found.values()), [met], memory)  # 256 MiB of 4 GiB

    def test_every_workload_counts_against_fuse2fs(self):
        found = verdicts.judge(results(trees__untar={"unit": "s", "blobfs": 1, "fuse2fs": 4},
                                       trees__rm_r={"unit": "s", "blobfs": 1, "fuse2fs": 2},
                                       idle__memory={"unit": "MiB", "blobfs": 9, "fuse2fs": 1}),
                               FACTS)
        self.assertEqual([verdict.met for verdict in found], [False])
        self.assertIn("1 are; trees.rm-r 2.00 x", found[0].measured)


class ExplanationTest(unittest.TestCase):
    def figures(self):
        def floor(seconds, **requests):
            return {"empty": Sample(1, seconds, requests=requests),
                    "empty-blocking": Sample(1, seconds, daemon_seconds=seconds / 2,
                                             requests=requests)}
        return results(
            floor__lookup=floor(1, LOOKUP=100),
            floor__create=floor(3, CREATE=100, LOOKUP=100),
            trees__untar={"unit": "s", "ext4": 1, "blobfs": Sample(
                6, 6, daemon_seconds=2.5, requests={"CREATE": 100, "GETXATTR": 50, "FORGET": 9})})

    def test_a_request_costs_what_is_left_of_the_floor(self):
        costs = FloorCosts(self.figures())
        self.assertAlmostEqual(costs.of("LOOKUP"), 0.01)
        self.assertAlmostEqual(costs.of("CREATE"), 0.02)
        self.assertAlmostEqual(costs.of("GETXATTR"), 0.01)
        self.assertEqual(costs.of("FORGET"), 0)

    def test_listing_costs_what_find_takes_beyond_its_start(self):
        figures = self.figures()
        for what, seconds, requests in (
                ("find-nothing", 0.5, {"LOOKUP": 1}),
                ("readdirplus", 2.51, {"READDIRPLUS": 6, "READDIR": 4, "LOOKUP": 1})):
            figures.add("empty", f"floor.{what}", "s", False,
                        Sample(seconds, seconds, requests=requests))
        costs = FloorCosts(figures)
        self.assertAlmostEqual(costs.of("READDIRPLUS"), 0.2)
        self.assertAlmostEqual(costs.of("READDIR"), 0.2)

    def test_the_gap_is_taken_apart(self):
        found, = explain(self.figures())
        self.assertAlmostEqual(found.gap, 5)
        self.assertAlmostEqual(found.floor, 100 * 0.02 + 50 * 0.01)
        self.assertAlmostEqual(found.own, 2.5 - 159 * 2 / 300)
        self.assertAlmostEqual(found.rest, found.gap - found.floor - found.own)
        verdict, = verdicts.judge(self.figures(), FACTS)
        self.assertEqual((verdict.target, verdict.met), (5, False))

    def test_nothing_is_explained_without_a_floor(self):
        self.assertEqual(explain(results(trees__untar={"unit": "s", "ext4": 1, "blobfs": Sample(
            6, 6, requests={"CREATE": 1})})), [])


class ReportTest(unittest.TestCase):
    def data(self):
        made = results(direct__randread_4k_qd1={"blobfs": [20, 30, 25], "empty-blocking": 10,
                                                "empty-spinning": 8, "ext4": 50})
        runner = type("Runner", (), {"results": made, "missing": {"xfs": "this kernel has none"}})
        facts = FACTS | {"processor": "P", "cores": 2, "system": "S", "kernel": "K", "virtual": "none",
                         "host_filesystem": "ext4", "load_at_start": [0.1], "versions": {}}
        made.failed["synced-append-512", "ext4"] = "no such device"
        sizes = command_line.sizes_of(command_line.parse(["--smoke"], "."))
        return json.loads(json.dumps(report.collect(facts, sizes, runner, "best", False)))

    def test_the_floor_is_the_better_one_and_says_which(self):
        data = self.data()
        self.assertEqual(data["floor"], {"direct.randread-4k-qd1": "empty-spinning"})
        self.assertIn("| 8 (0.32) spinning |", report.markdown(data))

    def test_ratios_spread_and_what_is_missing_are_told(self):
        text = report.markdown(self.data())
        self.assertIn("| 25 ±20% |", text)
        self.assertIn("| 50 (2.00) |", text)
        self.assertIn("XFS on a loop device: this kernel has none", text)
        self.assertIn("synced-append-512 on ext4 on a loop device: no such device", text)

    def test_comparison_with_an_earlier_run(self):
        earlier = self.data()
        for sample in earlier["metrics"]["direct.randread-4k-qd1"]["competitors"]["blobfs"]["samples"]:
            sample["value"] *= 2
        self.assertIn("| 50 | 25 | 2.00 x |", report.comparison(self.data(), earlier))


class CommandLineTest(unittest.TestCase):
    def chosen(self, *arguments):
        options = command_line.parse(list(arguments), ".")
        setup = type("Setup", (), {"sizes": command_line.sizes_of(options)})
        return [workload.name
                for workload in command_line.choose(all_workloads(setup), options)]

    def test_groups_patterns_and_exceptions(self):
        self.assertEqual(self.chosen("--only", "synced", "--skip", "*-append-*"),
                         ["synced-overwrite-4k", "synced-create-4k"])
        self.assertEqual(self.chosen("--quick", "--only", "names"), ["names-one-dir-1p"])
        self.assertEqual(len(self.chosen("--only", "names")), 4)
        with self.assertRaises(Unavailable):
            self.chosen("--only", "nothing-of-that-name")

    def test_names_of_workloads_are_unique(self):
        names = self.chosen()
        self.assertEqual(len(names), len(set(names)))

    def test_files_limit_the_growth(self):
        sizes = command_line.sizes_of(command_line.parse(["--files", "50000"], "."))
        self.assertEqual(sizes.growth, (10_000, 50_000))

    def test_a_missing_program_is_told_with_how_to_get_it(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(Unavailable, "cmake --build .* --target blobfs-fuse"):
                Programs(folder).need("blobfs-fuse")


class ScratchTest(unittest.TestCase):
    def test_a_killed_run_leaves_neither_files_nor_processes(self):
        program = ("import sys, time\n"
                   "from blobfs_bench import process, scratch\n"
                   "made = scratch.Scratch(sys.argv[1])\n"
                   "made.folder('log')\n"
                   "print(made.path, flush=True)\n"
                   "process.run(made, ['sleep', '600'])\n")
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.Popen([sys.executable, "-c", program, folder], text=True,
                                   stdout=subprocess.PIPE, env=dict(os.environ,
                                                                    PYTHONPATH=str(BENCH)))
            with run.stdout:
                path = run.stdout.readline().strip()
            deadline = time.monotonic() + 60
            while not scratch._processes(path, "command"):
                self.assertLess(time.monotonic(), deadline, "it did not start its command")
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
            run.wait()
            while os.path.exists(path) or scratch._processes(path, "command"):
                self.assertLess(time.monotonic(), deadline, f"{path} is left behind")
                time.sleep(0.01)


if __name__ == "__main__":
    unittest.main()
