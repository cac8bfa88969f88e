"""The style sheet of report.html. It has none of the five characters that HTML would escape, so
the browser hashes the same text as the content security policy."""

STYLE = """
:root { --ink: #1c1e21; --soft: #5b616a; --paper: #ffffff; --panel: #f4f5f7; --line: #d6d9de;
  --link: #0a58a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a6adb7; --paper: #15181c; --panel: #20242a; --line: #3a4048;
    --link: #7cc0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .4rem 0; max-width: 48rem; }
small, figcaption, footer, .row, dt { color: var(--soft); font-size: .875rem; font-weight: 400; }
a { color: var(--link); }
.outcome { font-size: 1.15rem; }
.rehearsal { border: 1px dashed var(--soft); border-radius: .4rem; padding: .4rem .75rem; }
.counts { list-style: none; padding: 0; margin: 1rem 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); }
.counts li { background: var(--panel); border-radius: .4rem; padding: .5rem .75rem;
  border-left: .3rem solid #999999; }
.counts b { display: block; font-size: 1.35rem; line-height: 1.2; }
.counts .ok { border-color: #0072b2; }
.counts .ambiguous, article.ambiguous { border-color: #e69f00; }
article.marked { border-color: #cc79a7; }
.counts .failed, article.failed { border-color: #d55e00; }
article { background: var(--panel); border-radius: .4rem; border-left: .3rem solid #999999;
  padding: .75rem 1rem; margin: 0 0 1rem; }
article.answer { border-color: #0072b2; }
.command { background: var(--paper); border: 1px solid var(--line); border-radius: .3rem;
  padding: .5rem .75rem; margin: .5rem 0; white-space: pre-wrap; max-width: 100%; }
code { font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
code span { display: inline-block; max-width: 100%; }
.sent { border-top: 1px solid var(--line); padding-top: .3rem; margin-top: .5rem; }
.row { margin: 0; }
dl { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr; gap: .1rem .75rem;
  margin: .2rem 0 .5rem; font-size: .9375rem; }
dt { max-width: 12rem; }
dd { margin: 0; min-width: 0; white-space: pre-wrap; }
.result { white-space: pre-wrap; border-top: 1px solid var(--line); margin-top: .5rem;
  padding-top: .5rem; max-width: 48rem; }
.citations { margin: .5rem 0 0; padding-left: 1.4rem; font-size: .9375rem; }
.pictures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 22rem), 1fr)); align-items: start; }
figure { margin: 0; min-width: 0; max-width: 30rem; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; font-variant-numeric: tabular-nums; }
footer { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: .75rem;
  padding-bottom: 2rem; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .3rem; }
}
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --panel: #ffffff; --line: #bbbbbb;
    --link: #000000; }
  @page { margin: 1.5cm; }
  html { font-size: 9.5pt; }
  main, footer { max-width: none; padding: 0; }
  .counts { grid-template-columns: repeat(5, 1fr); }
  .counts li, article { border: 1px solid var(--line); border-left-width: .3rem; }
  .pictures { grid-template-columns: 1fr 1fr; }
  h2, h3 { break-after: avoid; }
  .counts, .sent, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  th, td { white-space: normal; }
}
"""
