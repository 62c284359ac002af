"""The page's style sheet: system fonts, one accent, colours for light and dark mode."""

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #dfe3e8; --paper: #fcfcfb; --card: #ffffff;
  --band: #f3f5f7; --run-0: #8a8f98; --run-1: #1f6feb; --run-2: #c2571a; --run-3: #2a8f5d; --run-4: #8e4ec6;
  --up: #1a7f43; --down: #b3372c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4b0; --line: #2e343c; --paper: #14171b;
  --card: #1b1f24; --band: #20252b; --run-0: #9aa2ad; --run-1: #5aa2ff; --run-2: #f0883e; --run-3: #4cc38a;
  --run-4: #b98af0; --up: #4cc38a; --down: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 56px 0 6px; }
h3 { font-size: 13px; font-weight: 600; margin: 0 0 6px; color: var(--soft); overflow-wrap: anywhere; }
p { margin: 6px 0; max-width: 72ch; }
.soft, figcaption small { color: var(--soft); }
.heads { display: flex; flex-wrap: wrap; gap: 14px; margin: 28px 0 8px; }
.head { flex: 1 1 180px; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; border-top: 3px solid var(--mark); }
.head b { display: block; font-size: 34px; line-height: 1.15; font-weight: 650; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 14px 0; min-width: 460px; width: 100%; }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-size: 13px; color: var(--soft); font-weight: 600; }
tr.total td { font-weight: 650; border-top: 2px solid var(--ink); border-bottom: 0; background: var(--band); }
td.best { font-weight: 650; }
.bar { display: inline-block; height: 6px; border-radius: 3px; margin-right: 9px; vertical-align: middle; opacity: .8; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px; vertical-align: -1px;
  box-shadow: inset 0 0 0 1px rgba(127, 127, 127, .45); }
.up { color: var(--up); } .down { color: var(--down); }
.key { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 10px 0; font-size: 14px; }
.key i { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 7px; vertical-align: 4px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; margin-top: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px 8px; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-variant-numeric: tabular-nums; }
.panels { display: grid; gap: 18px 14px; margin-top: 14px; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--band); }
figure img.labels { image-rendering: pixelated; }
figcaption { font-size: 14px; line-height: 1.35; margin-top: 6px; }
figcaption small { display: block; font-size: 12.5px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 22px; margin: 12px 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { .panels { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; } }
@media print { main { padding: 0; } .card, figure { break-inside: avoid; } }
"""
