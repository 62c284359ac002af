"""Pictures of what a training sees and predicts, and the report that gathers them.

Pictures (all return uint8 RGB arrays of shape (H, W, 3); labels are integers (H, W), ``ignore_index`` is drawn black;
arrays may be NumPy arrays or tensors on any device):

* :func:`colorize` a label map, :func:`overlay` it on its image, :func:`with_legend` names the classes that occur
* :func:`heat` of pixel weights, :func:`outline` of boxes, :func:`denormalize` a network input
* :func:`step_panels`, :func:`prediction_panels`: ready-made sections for the report
* :func:`save_prediction`: the files that ``pipa predict`` writes

The report, one HTML file without any outside link, is described by four dataclasses of plain values
(:mod:`pipa.viz.report.data`) and written by :func:`write_report`::

    Run(name, iou, miou_curve=[(iteration, miou)], losses={"loss_ce": [(iteration, value)]}, seconds=None, note="")
        one training: `iou` holds percent per class in the order of the classes, None where a class never occurs
    Panel(title, image, caption="", labels=False)
        one picture; `labels` keeps its pixels sharp when the page enlarges it
    Section(title, panels, text="", columns=None)
        a row or grid of panels
    SeedTable(names, miou)
        `miou` maps a run's name to its mIoU for each seed; `names` are the seeds

    write_report("report.html", title="...", classes=CLASSES, palette=PALETTE, runs=[Run(...), ...],
                 settings={"iterations": 1000}, sections=[Section(...)], seeds=SeedTable(...), notes=["..."])

The first run is what the others are compared with (source-only), the second the run of interest (PiPa).
"""

from pipa.viz.pictures import (
    colorize,
    denormalize,
    heat,
    outline,
    overlay,
    palette_of,
    prediction_panels,
    save_prediction,
    step_panels,
    with_legend,
)
from pipa.viz.report import Panel, Run, Section, SeedTable, write_report

__all__ = [
    "Panel",
    "Run",
    "Section",
    "SeedTable",
    "colorize",
    "denormalize",
    "heat",
    "outline",
    "overlay",
    "palette_of",
    "prediction_panels",
    "save_prediction",
    "step_panels",
    "with_legend",
    "write_report",
]
