"""The page of ``capsfusion validate --report``: one HTML file that loads nothing from other hosts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

import numpy as np

from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.validation.evidence import evidence
from capsfusion_tasks.validation.facts import base_form
from capsfusion_tasks.validation.files import BINS, LONGEST, FileVerdicts
from capsfusion_tasks.validation.rules import FLAGS, MEANINGS, RULES
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.tally import Example, Tally
from capsfusion_tasks.validation.text import words

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_KINDS = {(True, True): "both", (True, False): "raw", (False, True): "synthetic", (False, False): "novel"}
_SCORES = {
    "raw_recall": "share of the raw caption's words that the caption keeps",
    "synthetic_recall": "share of the synthetic caption's words that the caption keeps",
    "fact_recall": "share of the raw caption's names and numbers that the caption keeps",
    "novelty": "share of the caption's words that are in neither source",
    "invention": "share of the caption's names and numbers that are in neither source",
    "repetition": "share of the caption's trigrams that repeat an earlier trigram",
    "source_overlap": "share of the sources' words that both sources have (Jaccard index)",
    "caption_words": "number of words in the caption",
}

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --ground: #fff; --faint: #6b7280; --line: #e2e5ea; --panel: #f7f8fa;
  --raw: #1d5fd1; --synthetic: #a65f00; --novel: #f6dff0; --bar: #7b8794; --bad: #c2410c; --good: #2f7d4f; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --ground: #16181c; --faint: #9aa3ad; --line: #2e3238;
  --panel: #1e2126; --raw: #7fb0ff; --synthetic: #f0b429; --novel: #50304a; --bar: #69737e; --bad: #fb923c;
  --good: #6fcf97; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); margin: 0 auto;
  max-width: 75rem; padding: 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); }
table { border-collapse: collapse; width: 100%; table-layout: fixed; } th, td { text-align: left; vertical-align: top;
  padding: .35rem .6rem; border-bottom: 1px solid var(--line); } th { font-weight: 600; color: var(--faint); }
.counts { table-layout: auto; } .counts td:nth-child(2), .counts td:nth-child(3) { text-align: right;
  font-variant-numeric: tabular-nums; }
.bar { height: .8rem; background: var(--bar); min-width: 1px; } .good { background: var(--good); }
.bad { background: var(--bad); } .track { width: 14rem; max-width: 30vw; }
.raw { color: var(--raw); } .synthetic { color: var(--synthetic); } .both { color: var(--raw);
  text-decoration: underline 2px var(--synthetic); } .novel { background: var(--novel); border-radius: 3px; }
mark { color: inherit; background: none; outline: 2px solid var(--bad); border-radius: 2px; }
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
.scores figure { margin: 0; padding: .7rem; background: var(--panel); }
svg { width: 100%; height: 5rem; display: block; }
svg rect { fill: var(--bar); } .ends { display: flex; justify-content: space-between; }
"""


def report_page(name: str, verdicts: FileVerdicts) -> str:
    """The whole report as HTML. ``name``: the name of the validated caption file."""
    tally = verdicts.tally
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(name)}: captions</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(name)}</h1>",
            f"<p>{tally.accepted:,} of {tally.rows:,} captions accepted ({1 - tally.share:.1%}).</p>",
            *_funnel(tally),
            "<h2>Reasons</h2><p class=faint>Why captions are rejected. A caption with two reasons counts twice.</p>",
            *_counts(tally.reasons, tally.rows),
            "<h2>Flags</h2><p class=faint>Doubtful captions to look at. A flag does not reject a caption.</p>",
            *_counts(tally.flags, tally.rows),
            *_trials(verdicts),
            "<h2>Scores</h2>",
            "<p class=faint>The number of captions with each score. This page was made with these thresholds"
            " (settings CAPSFUSION_RULES__…):"
            f" {escape(', '.join(f'{name}={value}' for name, value in verdicts.settings))}.</p>",
            *_histograms(verdicts),
            "<h2>Rules</h2><p class=faint>What each rule looks for, including rules that found nothing here.</p>",
            *_rules(tally),
            "<h2>Examples</h2>",
            '<p>Colours of the words: <span class="raw">from the raw caption</span>, <span class="synthetic">from the'
            ' synthetic one</span>, <span class="both">from both</span>, <span class="novel">from neither</span>.'
            " <mark>Framed</mark>: the words that make the rule apply.</p>",
            *_examples(tally),
            "</body></html>\n",
        ]
    )


def _funnel(tally: Tally) -> Iterator[str]:
    rows = [("captions", tally.rows, ""), ("accepted", tally.accepted, "good"), ("rejected", tally.rejected, "bad")]
    yield "<table class=counts>"
    for label, count, kind in rows:
        yield _count_row(label, count, tally.rows, kind)
    yield "</table>"


def _counts(counts: Counter[str], rows: int) -> Iterator[str]:
    if not counts:
        yield "<p>None.</p>"
        return
    yield "<table class=counts>"
    for code, count in counts.most_common():
        yield _count_row(code, count, rows, "", MEANINGS.get(code, ""))
    yield "</table>"


def _trials(verdicts: FileVerdicts) -> Iterator[str]:
    if verdicts.trials:
        yield "<h2>Other thresholds</h2><ul>"
        yield from (f"<li>{escape(trial.line(verdicts.tally.rows))}</li>" for trial in verdicts.trials)
        yield "</ul>"


def _rules(tally: Tally) -> Iterator[str]:
    yield "<table class=counts><tr><th>code</th><th>captions</th><th>effect</th><th>looks for</th></tr>"
    for rules, does, counts in ((RULES, "rejects", tally.reasons), (FLAGS, "flags", tally.flags)):
        for rule in rules:
            code = rule.__name__
            yield (
                f"<tr><td>{code}</td><td>{counts[code]:,}</td><td>{does}</td>"
                f"<td class=faint>{_plain(MEANINGS[code])}</td></tr>"
            )
    yield "</table>"


def _count_row(label: str, count: int, rows: int, kind: str, meaning: str = "") -> str:
    share = count / rows if rows else 0
    return (
        f"<tr><td>{escape(label)}</td><td>{count:,}</td><td>{share:.2%}</td>"
        f'<td class=track><div class="bar {kind}" style="width:{share:.2%}"></div></td>'
        f"<td class=faint>{_plain(meaning)}</td></tr>"
    )


def _plain(docstring: str) -> str:
    return escape(docstring.replace("``", ""))


def _histograms(verdicts: FileVerdicts) -> Iterator[str]:
    yield "<div class=scores>"
    for name in SCORES.names:
        top = f"{LONGEST} or more" if name == "caption_words" else "1"
        yield (
            f"<figure><figcaption>{name}<br><span class=faint>{escape(_SCORES[name])}</span></figcaption>"
            f"{_bars(verdicts.histograms[name])}<div class='ends faint'><span>0</span><span>{top}</span></div></figure>"
        )
    yield "</div>"


def _bars(counts: np.ndarray) -> str:
    highest = max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{x}" y="{100 - 100 * n / highest:.1f}" width="0.9" height="{100 * n / highest:.1f}">'
        f"<title>{n}</title></rect>"
        for x, n in enumerate(counts.tolist())
    )
    return f'<svg viewBox="0 0 {BINS} 100" preserveAspectRatio="none" role="img">{bars}</svg>'


def _examples(tally: Tally) -> Iterator[str]:
    for code, count in [*tally.reasons.most_common(), *tally.flags.most_common()]:
        yield f"<h3>{escape(code)} <span class=faint>{count:,}</span></h3>"
        yield "<table><tr><th>raw</th><th>synthetic</th><th>caption</th></tr>"
        yield from (_example(example, code) for example in tally.examples[code])
        yield "</table>"


def _example(example: Example, code: str) -> str:
    raw, synthetic = (_forms(words(source)) for source in (example.raw, example.synthetic))
    spans = evidence(Fused(example.raw, example.synthetic, example.caption), code)
    return (
        f"<tr><td>{escape(example.raw)}</td><td>{escape(example.synthetic)}</td>"
        f"<td>{_marked(example.caption, raw, synthetic, spans)}</td></tr>"
    )


def _marked(caption: str, raw: set[str], synthetic: set[str], spans: list[tuple[int, int]]) -> str:
    """The caption as HTML. Each word has the colour of the source captions that have this word.

    ``raw``, ``synthetic``: the base forms of these captions' words. ``spans``: (start, end) of each part to mark.
    """
    parts, end = [], 0
    for start, stop in spans:
        parts.append(_coloured(caption[end:start], raw, synthetic))
        parts.append(f"<mark>{_coloured(caption[start:stop], raw, synthetic)}</mark>")
        end = stop
    return "".join([*parts, _coloured(caption[end:], raw, synthetic)])


def _coloured(text: str, raw: set[str], synthetic: set[str]) -> str:
    parts, end = [], 0
    for match in _TOKEN.finditer(text):
        forms = _forms(words(match[0]))
        kind = _KINDS[forms <= raw, forms <= synthetic]
        parts += [escape(text[end : match.start()]), f'<span class="{kind}">{escape(match[0])}</span>']
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _forms(found: Iterable[str]) -> set[str]:
    return set(map(base_form, found))
