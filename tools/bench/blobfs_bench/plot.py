"""One SVG for each group: how fast everybody is compared with blobfs on a file."""

from . import Unavailable
from .report import RATIO_BASE, TITLES, columns, results_of

BAR = 0.8  # of the room of a workload


def _figures():
    try:
        import matplotlib
        matplotlib.use("svg")
        from matplotlib import pyplot, ticker
    except ImportError:
        raise Unavailable("plots need matplotlib; get it with: apt-get install python3-matplotlib"
                          ) from None
    matplotlib.rcParams["svg.hashsalt"] = "blobfs"  # the same picture for the same figures
    return pyplot, ticker


def write(data, folder):
    """Writes FOLDER/GROUP.svg."""
    pyplot, ticker = _figures()
    folder.mkdir(parents=True, exist_ok=True)
    results = results_of(data)
    names = columns(results)
    for group in results.groups():
        metrics = [metric for metric in results.metrics.values()
                   if metric.group() == group and metric.median(RATIO_BASE)]
        if not metrics:
            continue
        shown = [name for name in names if name != RATIO_BASE
                 and any(metric.median(name) for metric in metrics)]
        if not shown:
            continue
        figure, axes = pyplot.subplots(figsize=(9, 2 + 0.16 * len(metrics) * (len(shown) + 1)))
        height = BAR / len(shown)
        for index, name in enumerate(shown):
            places = [row - BAR / 2 + (index + 0.5) * height for row in range(len(metrics))]
            speeds = [metric.speed(name, RATIO_BASE) or float("nan") for metric in metrics]
            axes.barh(places, [speed - 1 for speed in speeds], height * 0.9, left=1,
                      label=TITLES[name], color=f"C{names.index(name)}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g x"))
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(metrics)),
                        [metric.name.split(".", 1)[1] for metric in metrics])
        axes.invert_yaxis()
        axes.set_title(f"{group}: speed compared with {TITLES[RATIO_BASE]}; to the right is faster")
        axes.legend(fontsize="small", ncol=3, loc="upper center", bbox_to_anchor=(0.4, -0.08))
        figure.tight_layout()
        figure.savefig(folder / f"{group}.svg", metadata={"Date": None})
        pyplot.close(figure)
