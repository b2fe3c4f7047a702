"""What a calibration found, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.cli.shell import print_rows, say
from rollout.values import RolloutError

if TYPE_CHECKING:
    # They load torch, which no other command needs.
    from rollout.engine.reliability import Reliability
    from rollout.serving.calibrate import CalibratedPolicy

SHOWN = 12
"""Candidates printed, spread over all that were tried."""


def show_calibration(done: CalibratedPolicy) -> None:
    """The candidates with their certificates, then how far confidence can be trusted."""
    choice, report = done.choice, done.report
    if choice is not None:
        stride = -(-len(choice.tried) // SHOWN)
        tried = [
            (
                f"{row.threshold:.4f}",
                "yes" if row.certified else "no",
                f"{1 - row.mismatches / choice.rows:.2%}",
                f"{row.exit_share:.0%}",
                f"{row.net_saving:.0%}",
                "chosen" if row.threshold == choice.threshold else "",
            )
            for place, row in enumerate(choice.tried)
            if place % stride == 0 or row.threshold == choice.threshold
        ]
        columns = ("threshold", "certified", "agreement", "exit early", "net saving", "")
        print_rows(columns, tried)
    say(
        f"{report.head} by {report.criterion} at layers "
        f"{', '.join(map(str, report.exit_layers))}; a probe costs {report.probe_cost:.2f} layers; "
        f"threshold {done.policy.thresholds[0]:.4f}"
    )
    rows = [
        (
            "all" if curve.exit_layer is None else str(curve.exit_layer),
            f"{_mean(curve, 'confidence'):.2%}",
            f"{_mean(curve, 'agreement'):.2%}",
            f"{curve.error:.2%}",
        )
        for curve in report.reliability
    ]
    print_rows(("exit", "mean confidence", "agreement", "calibration error"), rows)
    say(
        f"judged on {report.rows:,} {report.judged_on} texts; the model's first choice of all "
        f"tokens is no label for {report.no_label_share:.1%} of the requests"
    )


def _mean(curve: Reliability, what: str) -> float:
    total = sum(one.answers * float(getattr(one, what)) for one in curve.bins)
    return total / max(curve.answers, 1)


def save_reliability_figure(curves: Sequence[Reliability], path: Path) -> None:
    """Agreement against confidence, a line per exit and one for all, as SVG.

    Raises:
        RolloutError: the file cannot be written.
    """
    # Slow to import, and no other command needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    for curve in curves:
        whole = curve.exit_layer is None
        axes.plot(
            [one.confidence for one in curve.bins],
            [one.agreement for one in curve.bins],
            marker="o",
            markersize=4 if whole else 3,
            linewidth=2 if whole else 1,
            color="black" if whole else None,
            label=f"{'all exits' if whole else f'layer {curve.exit_layer}'} ({curve.error:.1%})",
        )
    axes.set(xlabel="confidence", ylabel="agreement with full depth", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(title="calibration error", fontsize=8, title_fontsize=8, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise RolloutError(f"{path}: cannot be written: {error.strerror}") from error
