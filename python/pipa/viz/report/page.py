"""The report's HTML, from the dataclasses in `data.py`."""

from __future__ import annotations

import base64
import io
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from pipa.files.atomic import refuse_other, write_text
from pipa.viz.report.charts import line_chart
from pipa.viz.report.data import Panel, Run, Section, SeedTable
from pipa.viz.report.style import CSS

_SLOTS = 5
#: Marks our own pages, so that no other file is replaced by one.
GENERATOR = "pipa-rs"


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    runs: Sequence[Run],
    compare: Sequence[tuple[str, str]] | None = None,
    settings: Mapping[str, object] | None = None,
    sections: Sequence[Section] = (),
    seeds: SeedTable | None = None,
    notes: Sequence[str] = (),
    subtitle: str = "",
) -> Path:
    """Write one self-contained HTML file (atomically) and return its path.

    Args:
        path: The file; its folder is made.
        classes, palette: Names and colours in the order of the label ids.
        runs: At least one. The mIoU of the others is compared with that of the first.
        compare: Names of two runs each, ``(after, before)``, whose differences per class are columns of the table; the
            second run beside the first when not given.
        settings: Shown as they are, in their order.
        sections: Panels, in their order.
        seeds: mIoU over several seeds.
        notes: Paragraphs at the end of the results.

    Raises:
        ValueError: No run, a run whose number of classes differs from `classes`, or a comparison of a run that is not
            there.

    >>> import pipa
    >>> runs = [pipa.viz.Run("source-only", [50.0, 40.0]), pipa.viz.Run("PiPa", [60.0, 40.0])]
    >>> palette = pipa.viz.palette_of(None, 2)
    >>> pipa.viz.write_report("report.html", title="Two", classes=["road", "sky"], palette=palette, runs=runs).name
    'report.html'
    """
    if not runs:
        raise ValueError("runs: expected at least one")
    if len(palette) < len(classes):
        raise ValueError(f"palette: expected {len(classes)} colours, got {len(palette)}")
    for run in runs:
        if len(run.iou) != len(classes):
            raise ValueError(f"run {run.name!r}: expected {len(classes)} values of iou, got {len(run.iou)}")
    if compare is None:
        compare = [(runs[1].name, runs[0].name)] if len(runs) > 1 else []
    named = {run.name: run for run in runs}
    for name in (name for pair in compare for name in pair):
        if name not in named:
            raise ValueError(f"compare: no run is named {name!r}, found {list(named)}")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(subtitle)}</p>' if subtitle else "",
        _heads(runs),
        _table(classes, palette, runs, [(named[after], named[before]) for after, before in compare]),
        _seed_table(seeds) if seeds else "",
        "".join(f"<p>{escape(note)}</p>" for note in notes),
        _curves(runs),
        *(section_of(section) for section in sections),
        class_key(classes, palette) if sections else "",
        _settings(settings) if settings else "",
    ]
    return write_text(path, page_of(title, parts))


def refuse_foreign(path: Path) -> None:
    """Refuse to replace a page that is none of ours. Asked before long work, and again where it is written.

    Raises:
        FileExistsError: another page of that name is there.
    """
    refuse_other(path, _is_page, "page of pipa")


def _is_page(path: Path) -> bool:
    return f'content="{GENERATOR}"' in path.read_text(encoding="utf-8", errors="replace")[:1000]


def page_of(title: str, parts: Sequence[str]) -> str:
    """A whole page with the report's style, from pieces of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{GENERATOR}">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>\n" + "\n".join(filter(None, parts))
    ) + "\n</main></body></html>\n"


def _slot(index: int) -> int:
    return index % _SLOTS


def _heads(runs: Sequence[Run]) -> str:
    cards = []
    for i, run in enumerate(runs):
        detail = [run.note] if run.note else []
        if i > 0:
            detail.insert(0, f"{_signed(run.miou - runs[0].miou)} points over {runs[0].name}")
        if run.seconds is not None:
            detail.append(_duration(run.seconds))
        cards.append(
            f'<div class="head" style="--mark: var(--run-{_slot(i)})"><span class="soft">{escape(run.name)}</span>'
            f"<b>{_percent(run.miou)}</b>"
            f'<span class="soft">{escape(" · ".join(["mIoU", *detail]))}</span></div>'
        )
    return f'<div class="heads">{"".join(cards)}</div>'


def _table(
    classes: Sequence[str], palette: Sequence[Sequence[int]], runs: Sequence[Run], pairs: Sequence[tuple[Run, Run]]
) -> str:
    head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    head += "".join(f"<th>{escape(after.name)} − {escape(before.name)}</th>" for after, before in pairs)
    rows = []
    for c, name in enumerate(classes):
        cells = "".join(_cell(run.iou[c], i) for i, run in enumerate(runs))
        cells += "".join(_difference(before.iou[c], after.iou[c]) for after, before in pairs)
        rows.append(f"<tr><td>{_swatch(palette[c])}{escape(name)}</td>{cells}</tr>")
    total = "".join(f"<td>{_percent(run.miou)}</td>" for run in runs)
    total += "".join(_difference(before.miou, after.miou) for after, before in pairs)
    return (
        '<h2>Results on the target</h2><p class="soft">Intersection over union in percent.</p>'
        '<div class="scroll"><table>'
        f"<thead><tr><th>Class</th>{head}</tr></thead><tbody>{''.join(rows)}"
        f'<tr class="total"><td>mIoU</td>{total}</tr></tbody></table></div>'
    )


def _cell(value: float | None, index: int) -> str:
    if value is None or math.isnan(value):
        return '<td class="soft">–</td>'
    bar = f'<span class="bar" style="width:{max(1, round(0.6 * value))}px;background:var(--run-{_slot(index)})"></span>'
    return f"<td>{bar}{value:.1f}</td>"


def _difference(before: float | None, after: float | None) -> str:
    if before is None or after is None or math.isnan(after - before):
        return '<td class="soft">–</td>'
    difference = after - before
    kind = "up" if difference >= 0.05 else "down" if difference <= -0.05 else "soft"
    return f'<td class="{kind}">{_signed(difference)}</td>'


def _seed_table(seeds: SeedTable) -> str:
    head = "".join(f"<th>seed {escape(name)}</th>" for name in seeds.names)
    rows = []
    for run, values in seeds.miou.items():
        cells = "".join(f"<td>{value:.1f}</td>" for value in values)
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "–"
        mean = f"{statistics.mean(values):.1f}" if values else "–"
        rows.append(f'<tr><td>{escape(run)}</td>{cells}<td class="best">{mean}</td><td>{spread}</td></tr>')
    return (
        '<h2>Over seeds</h2><p class="soft">mIoU on the target in percent; spread is the standard deviation.</p>'
        f'<div class="scroll"><table><thead><tr><th>Run</th>{head}<th>mean</th><th>spread</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curves(runs: Sequence[Run]) -> str:
    slots = {run.name: _slot(i) for i, run in enumerate(runs)}
    key = "".join(
        f'<span><i style="background:var(--run-{slot})"></i>{escape(name)}</span>' for name, slot in slots.items()
    )
    parts = []
    miou = line_chart(
        {run.name: run.miou_curve for run in runs}, slots, width=780, height=250, label="mIoU on the target"
    )
    if miou:
        parts.append(f'<div class="card"><h3>mIoU on the target, percent, over iterations</h3>{miou}</div>')
    names = list(dict.fromkeys(name for run in runs for name in run.losses))
    charts = []
    for name in names:
        curves = {run.name: run.losses[name] for run in runs if name in run.losses}
        chart = line_chart(curves, slots, width=420, height=190, smooth=True, label=name)
        if chart:
            charts.append(f'<div class="card"><h3>{escape(name)}</h3>{chart}</div>')
    if charts:
        parts.append(f'<div class="charts">{"".join(charts)}</div>')
    if not parts:
        return ""
    note = '<p class="soft">Losses: the running mean; the logged values behind it.</p>' if charts else ""
    return f'<h2>Training</h2>{note}<div class="key">{key}</div>{"".join(parts)}'


def section_of(section: Section) -> str:
    columns = section.columns or min(3, max(1, len(section.panels)))
    figures = "".join(_figure(panel) for panel in section.panels)
    text = f'<p class="soft">{escape(section.text)}</p>' if section.text else ""
    return (
        f"<h2>{escape(section.title)}</h2>{text}"
        f'<div class="panels" style="grid-template-columns:repeat({columns},minmax(0,1fr))">{figures}</div>'
    )


def _figure(panel: Panel) -> str:
    buffer = io.BytesIO()
    Image.fromarray(panel.image).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = ' class="labels"' if panel.labels else ""
    height, width = panel.image.shape[:2]
    caption = f"<small>{escape(panel.caption)}</small>" if panel.caption else ""
    return (
        f'<figure><img{kind} width="{width}" height="{height}" alt="{escape(panel.title)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(panel.title)}{caption}</figcaption></figure>'
    )


def class_key(classes: Sequence[str], palette: Sequence[Sequence[int]]) -> str:
    items = "".join(f"<span>{_swatch(palette[c])}{escape(name)}</span>" for c, name in enumerate(classes))
    return f'<div class="key">{items}<span>{_swatch((0, 0, 0))}ignored</span></div>'


def _settings(settings: Mapping[str, object]) -> str:
    items = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in settings.items())
    return f"<h2>Settings</h2><dl>{items}</dl>"


def _swatch(color: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></span>'


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"+{value:.1f}" if value >= 0 else f"−{-value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
