# SPDX-License-Identifier: Apache-2.0
"""The style sheet of the report, for light and dark screens and for paper."""

from __future__ import annotations

STYLE = """
:root { --ink: #1b2430; --soft: #5a6675; --line: #d9dee5; --page: #fff; --card: #f5f7f9; --s1:#0b5fa5;
  --s2:#c2560a; --s3:#5a6675; --good: #0a6f5c; --good-bg: #e9f5f2; --check: #8a5a00; --check-bg: #fdf4df;
  --failed: #a3203c; --failed-bg: #fbebee; color-scheme: light }
@media (prefers-color-scheme:dark) {
 @media screen {
  :root { --ink: #e6eaef; --soft: #9aa7b5; --line: #323c48; --page: #12171d; --card: #1a2129; --s1:#69b3f2;
    --s2:#f2a45c; --s3:#9aa7b5; --good: #5cc9b0; --good-bg: #12302b; --check: #f0bd55; --check-bg: #352a10;
    --failed: #ff8c9e; --failed-bg: #3a161d; color-scheme: dark }
 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 60px }
h1 { font-size: 25px; line-height: 1.25; margin: 2px 0 4px; font-weight: 650; overflow-wrap: anywhere }
h1 span { color: var(--soft); font-weight: 400 }
h2 { font-size: 17px; margin: 0 0 10px; font-weight: 650 }
h3 { font-size: 14px; margin: 18px 0 6px }
p { margin: 0 0 8px }
.kind { color: var(--soft); font-size: 13px; letter-spacing: .03em; margin: 0 }
.sub { color: var(--soft); margin: 0 }
header { border-bottom: 1px solid var(--line); padding-bottom: 16px; margin-bottom: 20px }
section { margin: 30px 0 }
.verdict { margin: 20px 0 14px; padding: 18px 22px; border-left: 6px solid; border-radius: 4px }
.verdict.good { background: var(--good-bg); border-color: var(--good) }
.verdict.check { background: var(--check-bg); border-color: var(--check) }
.verdict.failed { background: var(--failed-bg); border-color: var(--failed) }
.verdict .head { display: flex; gap: 16px; align-items: center }
.verdict .head .symbol { width: 44px; height: 44px; flex: none }
.verdict h2 { font-size: 22px; margin: 0 }
.verdict p { margin: 0 }
.verdict ul { margin: 12px 0 6px 60px; padding: 0 }
.verdict li { margin: 3px 0 }
.verdict details { margin: 8px 0 0 60px }
.verdict summary { color: var(--soft); cursor: pointer }
.symbol circle, .symbol .fill { fill: currentColor; stroke: none }
.symbol path:not(.fill) { fill: none; stroke: var(--page); stroke-width: 2.6; stroke-linecap: round;
  stroke-linejoin: round }
.symbol.good { color: var(--good) }
.symbol.check { color: var(--check) }
.symbol.failed { color: var(--failed) }
td .symbol { width: 16px; height: 16px; display: block; margin-top: 3px }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 26px }
.card { flex: 1 1 215px; background: var(--card); border-radius: 4px; padding: 11px 14px }
.card p { margin: 0 }
.card .name, .card .note { color: var(--soft); font-size: 12.5px }
.card .value { font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums }
figure { margin: 0 }
figcaption { color: var(--soft); font-size: 13px; margin-top: 10px }
.panels { display: grid; gap: 6px 8px; align-items: start }
.panels.c4 { grid-template-columns: repeat(4,1fr) }
.panels.c3 { grid-template-columns: repeat(3,1fr) }
.panels.c2 { grid-template-columns: repeat(2,1fr); max-width: 714px }
.column { margin: 0 0 1px; font-size: 13.5px; font-weight: 600; align-self: end }
.panel { display: block; width: 100%; background: #000; border-radius: 2px; overflow: hidden }
.letters text { fill: #f3d77a; paint-order: stroke; stroke: #000; stroke-opacity: .75; stroke-width: .18em;
  stroke-linejoin: round; font-family: inherit; font-weight: 600 }
.dim { opacity: .6 }
.flip { opacity: 0 }
.panel:hover .flip { opacity: 1 }
.grid, .outline, .fold, .end { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round }
.grid { stroke: #ffe08a; stroke-width: .9; stroke-opacity: .85 }
.fold { stroke: #000; stroke-width: 1.2 }
.end { stroke: #e6399b; stroke-width: 1.2; stroke-dasharray: 4 3 }
.outline.own { stroke: #45b4ff; stroke-width: 1.6 }
.outline.propagated { stroke: #ff9417; stroke-width: 1.6 }
.outline.both { stroke: #fff; stroke-width: 1 }
.key { white-space: nowrap; margin-right: 12px; color: var(--ink) }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px;
  vertical-align: -1px }
.key .line { height: 3px; width: 18px; vertical-align: 4px }
.key .orange { background: #e2841e }
.key .blue { background: #3a8cc8 }
.key .sky { background: #45b4ff }
.key .white { background: #fff; outline: 1px solid var(--soft) }
.key .fold { background: #f0ff00; outline: 1px solid var(--ink) }
.key .end { background: none; outline: 1.5px dashed #e6399b }
.key .stroke { height: 0; width: 22px; border-radius: 0; vertical-align: 4px; border-top: 2px solid }
.key .s1 { border-color: var(--s1) }
.key .s2 { border-color: var(--s2); border-top-style: dashed }
.key .s3 { border-color: var(--s3); border-top-style: dotted }
.legend { display: block; width: 270px; margin: 0 0 6px -30px }
.legend text { font-size: 9.5px; text-anchor: middle; fill: var(--ink) }
.legend path { stroke: var(--soft) }
.charts { display: grid; grid-template-columns: repeat(auto-fit,minmax(300px,1fr)); gap: 18px }
.chart { width: 100%; display: block }
.chart text { font-family: inherit }
.tick { font-size: 10.5px; fill: var(--soft) }
.chart .title { font-size: 11.5px; fill: var(--ink) }
.chart path { fill: none }
.mesh { stroke: var(--line); stroke-width: 1 }
.axis { stroke: var(--soft); stroke-width: 1 }
.rule { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3 }
.line { stroke-width: 1.8; stroke-linejoin: round }
.line.s1 { stroke: var(--s1) }
.line.s2 { stroke: var(--s2); stroke-dasharray: 6 3 }
.line.s3 { stroke: var(--s3); stroke-dasharray: 1.5 2.5 }
.dot.s1 { fill: var(--s1) }
.dot.s2 { fill: var(--s2) }
.dot.s3 { fill: var(--s3) }
rect.box { fill: var(--card); stroke: var(--soft) }
rect.low { fill: #3a8cc8 }
rect.high { fill: #e2841e }
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
td, th { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere }
th[scope=row] { font-weight: 500 }
thead th { overflow-wrap: normal; color: var(--soft); font-weight: 600; font-size: 12.5px }
.criteria th[scope=row], .files th[scope=row] { white-space: nowrap }
.criteria td:last-child { color: var(--soft); min-width: 170px }
.numbers td, .numbers th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
.dumbbell { width: 110px; height: 11px; vertical-align: middle }
.dumbbell .before { fill: var(--page); stroke: var(--soft); stroke-width: 1.2 }
path.up, path.down { stroke-width: 2 }
path.up { stroke: var(--s1) }
path.down { stroke: var(--s2) }
circle.up { fill: var(--s1) }
circle.down { fill: var(--s2) }
.times { max-width: 560px }
.times td:last-child { width: 55% }
.bar { display: block; height: 8px; margin-top: 6px; background: var(--s1); min-width: 1px }
.block { border-top: 1px solid var(--line); padding: 11px 0 }
.block h2 { display: inline; margin: 0 }
.block summary { cursor: pointer }
.block[open] summary { margin-bottom: 10px }
.block p { color: var(--soft); font-size: 13px }
@media (max-width:640px) {
 main { padding: 20px 14px }
 .verdict ul, .verdict details { margin-left: 0; padding-left: 18px }
}
@media print {
 @page { margin: 14mm }
 body { font-size: 9.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact }
 main { padding: 0; max-width: none }
 .pictures { break-before: page; break-inside: avoid }
 .panel, .charts, .card, tr { break-inside: avoid }
 table { font-size: 8.5pt }
 .verdict ul, .verdict details { margin-left: 0 }
 .verdict { padding: 12px 16px }
 .card { flex-basis: 150px }
 .charts { grid-template-columns: repeat(3,1fr) }
 .grid, .outline.own, .outline.propagated { stroke-width: .6 }
 .outline.both, .fold, .end { stroke-width: .4 }
 h2, summary { break-after: avoid }
 .screen { display: none }
 details::details-content { content-visibility: visible; block-size: auto }
}
"""
