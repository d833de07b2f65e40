"""What a run has found: as data, and as Markdown for people."""

import dataclasses

from . import verdicts
from .competitors import ALL
from .explanation import explain
from .samples import Metric, Results

FORMAT = 1  # of the JSON; changes when a program that reads it would have to change
FLOORS = ("empty-blocking", "empty-spinning")
TITLES = {kind.name: kind.title for kind in ALL} | {"empty": "empty FUSE filesystem"}
# Which columns of a table name the others' speed as a ratio of blobfs's.
RATIO_BASE = "blobfs"


def add_floor(metric, floor):
    """The competitor "empty": of the two the better one, or the one that was chosen."""
    chosen = metric.best(FLOORS) if floor == "best" else f"empty-{floor}"
    if chosen in metric.samples:
        metric.samples["empty"] = metric.samples[chosen]
    return chosen


def collect(facts, sizes, runner, floor, interrupted):
    """Everything about a run as plain data, the JSON of --json."""
    results = runner.results
    floors = {name: add_floor(metric, floor) for name, metric in results.metrics.items()}
    return {
        "format": FORMAT,
        "machine": facts,
        "sizes": dataclasses.asdict(sizes),
        "interrupted": interrupted,
        "missing": runner.missing,
        "skipped": [{"workload": key[0], "competitor": key[1], "reason": reason}
                    for key, reason in results.skipped.items()],
        "failed": [{"workload": key[0], "competitor": key[1], "reason": reason}
                   for key, reason in results.failed.items()],
        "floor": floors,
        "metrics": {name: metric.to_json() for name, metric in results.metrics.items()},
        "explanations": [dataclasses.asdict(found) for found in explain(results)],
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts.judge(results, facts)],
    }


def results_of(data):
    results = Results()
    for name, metric in data["metrics"].items():
        results.metrics[name] = Metric.from_json(name, metric)
    return results


def number(value):
    """Three digits that matter, thousands with a separator."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _table(header, rows, right_from=1):
    """A Markdown table; columns from right_from on are numbers."""
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---" if i < right_from else "---:" for i in range(len(header))) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def columns(results):
    """Competitors that have any sample, in the order of the report."""
    order = [kind.name for kind in ALL if kind.name not in FLOORS]
    order.insert(2, "empty")
    return [name for name in order
            if any(name in metric.samples for metric in results.metrics.values())]


def _cell(metric, competitor):
    middle = metric.median(competitor)
    if middle is None:
        return ""
    text = number(middle)
    spread = metric.spread(competitor)
    if spread is not None:
        text += f" ±{spread * 50:.0f}%"
    if competitor != RATIO_BASE:
        speed = metric.speed(RATIO_BASE, competitor)
        if speed:
            text += f" ({speed:.2f})"
    return text


def _group_table(results, group, shown, floors):
    rows = []
    for metric in results.metrics.values():
        if metric.group() != group:
            continue
        direction = "more is better" if metric.higher_is_better else "less is better"
        mode = (floors.get(metric.name) or "").removeprefix("empty-")
        rows.append([f"{metric.name.split('.', 1)[1]}", f"{metric.unit}, {direction}",
                     *[_cell(metric, name) + (f" {mode}" if name == "empty" and mode and
                                              metric.median(name) is not None else "")
                       for name in shown]])
    return _table(["workload", "unit", *[TITLES[name] for name in shown]], rows, 2)


def _cpu_table(results, shown):
    """Processor time of one operation: of the daemon, and of the whole machine."""
    rows = []
    for metric in results.metrics.values():
        row = []
        for name in shown:
            sample = metric.typical(name)
            if sample is None or not sample.operations or sample.machine_seconds is None:
                row.append("")
                continue
            whole = sample.machine_seconds / sample.operations * 1e6
            if sample.daemon_seconds is None:
                row.append(f"{number(whole)}")
            else:
                mine = sample.daemon_seconds / sample.operations * 1e6
                row.append(f"{number(mine)} / {number(whole)}")
        if any(row):
            rows.append([metric.name, *row])
    return _table(["workload", *[TITLES[name] for name in shown]], rows) if rows else ""


def comparison(data, earlier):
    """blobfs then and now: the metrics that both runs have."""
    now, then = results_of(data), results_of(earlier)
    rows = []
    for metric in now.metrics.values():
        before = then.get(metric.name)
        for name in ("blobfs", "blobfs-mem"):
            if not before or metric.median(name) is None or not before.median(name):
                continue
            both = Metric("", metric.unit, metric.higher_is_better,
                          {"now": metric.samples[name], "then": before.samples[name]})
            speed = both.speed("now", "then")
            rows.append([metric.name, TITLES[name], metric.unit, number(both.median("then")),
                         number(both.median("now")), f"{speed:.2f} x" if speed else ""])
    return ("## Compared with an earlier run\n\nThe last column: how many times as fast it is now."
            "\n\n" + _table(["workload", "of", "unit", "then", "now", "speed"], rows, 3))


def _machine_lines(data):
    facts = data["machine"]
    lines = [
        f"* {facts['processor']}, {facts['cores']} cores, {facts['memory_bytes'] / (1 << 30):.1f} GiB",
        f"* {facts['system']}, Linux {facts['kernel']}, virtualization: {facts['virtual']}",
        f"* images of {data['sizes']['image_bytes'] >> 20} MiB on {facts['host_filesystem']}",
        f"* load {facts['load_at_start'][0]:.2f} at the start"
        + (f", {facts['load_at_end'][0]:.2f} at the end" if facts.get("load_at_end") else ""),
    ]
    lines += [f"* {name}: {text}" for name, text in facts["versions"].items()]
    return lines


def markdown(data):
    results = results_of(data)
    shown = columns(results)
    parts = ["# blobfs-bench\n", "\n".join(_machine_lines(data)) + "\n"]
    if data["interrupted"]:
        parts.append("The run was interrupted: not everything was measured.\n")
    if data["sizes"]["rounds"] == 1:
        parts.append("One round only: nothing is known of the spread.\n")
    if data["missing"]:
        parts.append("Left out:\n\n" + "\n".join(
            f"* {TITLES[name]}: {reason}" for name, reason in data["missing"].items()) + "\n")
    if data["failed"]:
        parts.append("Failed:\n\n" + "\n".join(
            f"* {item['workload']} on {TITLES.get(item['competitor'], item['competitor'])}: "
            f"{item['reason']}" for item in data["failed"]) + "\n")
    parts.append(_verdict_part(data))
    parts.append(
        "Medians of the rounds; ± half of what lies between the least and the most; in parentheses "
        "how many times as fast as that blobfs on a file is. Empty: the better of a blocking and a "
        "spinning one, as named.\n")
    for group in results.groups():
        parts.append(f"## {group}\n\n" + _group_table(results, group, shown, data["floor"]))
    parts.append(_explanation_part(data))
    cpu = _cpu_table(results, shown)
    if cpu:
        parts.append("## Processor time of one operation\n\nMicroseconds: of the daemon / of the "
                     "whole machine, the program that measures included.\n\n" + cpu)
    return "\n".join(parts)


def _verdict_part(data):
    rows = [[item["target"], item["what"], item["asked"], item["measured"],
             {True: "yes", False: "**no**", None: "?"}[item["met"]]]
            for item in data["verdicts"]]
    if not rows:
        return ""
    return "## Targets\n\n" + _table(["target", "what", "asked", "measured", "met"], rows, 5)


def _explanation_part(data):
    rows = []
    for item in data.get("explanations", ()):
        most = sorted(item["requests"].items(), key=lambda entry: -entry[1])[:4]
        rows.append([item["metric"], number(item["measured"]), number(item["other"]),
                     number(item["gap"]),
                     f"{sum(item['requests'].values()):,}: "
                     + ", ".join(f"{name} {count:,}" for name, count in most),
                     number(item["floor"]), number(item["own"]), number(item["rest"])])
    if not rows:
        return ""
    return ("## What the floor explains\n\nSeconds. Floor: the requests that the kernel sent to "
            "blobfs, each at what it costs on the empty filesystem. Own: the daemon's processor "
            "time beyond what the empty one would use. Rest: waiting for the device, or, negative, "
            "what overlaps.\n\n"
            + _table(["workload", "blobfs on a file", "ext4", "gap", "requests", "floor", "own",
                      "rest"], rows))
