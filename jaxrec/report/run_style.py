"""The style sheet of the page of a run: light and dark, one column on narrow screens.

Colours of lines are of Okabe and Ito, darkened or lightened where they would be too pale on their ground.
"""

from __future__ import annotations

LIGHT = {
    "ground": "#ffffff", "ink": "#1a1a1a", "quiet": "#555555", "rule": "#d0d0d0", "panel": "#f5f6f8",
    "bar": "#cfe3f3", "link": "#00558c",
    "s0": "#0072b2", "s1": "#c04d00", "s2": "#007a58", "s3": "#a8487f", "s4": "#8a6000", "s5": "#1a1a1a",
}  # fmt: skip
DARK = {
    "ground": "#14171a", "ink": "#eceef0", "quiet": "#b3b9bf", "rule": "#3d444b", "panel": "#1e2328",
    "bar": "#1d4a6b", "link": "#7cc4f5",
    "s0": "#56b4e9", "s1": "#f08a3c", "s2": "#3dc79a", "s3": "#e59ac6", "s4": "#e6b84d", "s5": "#eceef0",
}  # fmt: skip
_DASHES = ("none", "7 3", "7 3 2 3", "2 3", "11 3", "4 2")


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_SERIES = "".join(
    f".line.s{i}{{stroke:var(--s{i});stroke-dasharray:{dash}}}.band.s{i},.dot.s{i}{{fill:var(--s{i})}}"
    for i, dash in enumerate(_DASHES)
)

STYLE = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:76rem;padding:1rem;background:var(--ground);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}}
h1,h2,h3,p,li,dd,dt,figcaption,code,.name{{overflow-wrap:anywhere}}
h1{{font-size:1.6rem;line-height:1.2;margin:.5rem 0}}
h2{{font-size:1.2rem;margin:2rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule)}}
h3{{font-size:1rem;margin:1rem 0 .25rem}}
p{{max-width:46rem;margin:.5rem 0}}
small,caption{{font-size:.875rem;color:var(--quiet);font-weight:normal}}
caption{{text-align:left;padding:.25rem .5rem}}
code{{font:.875rem ui-monospace,monospace}}
a{{color:var(--link)}}
.skip{{position:absolute;left:-100rem}}
.skip:focus{{position:static}}
.cards{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13rem),1fr));gap:.75rem;
margin:1rem 0}}
.cards div{{background:var(--panel);border-radius:.4rem;padding:.6rem .8rem}}
.cards dt{{font-size:.875rem;color:var(--quiet)}}
.cards dd{{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}}
.figures{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem}}
figure{{margin:0;padding:.6rem;background:var(--panel);border-radius:.4rem;min-width:0}}
.chart{{display:block;width:100%;height:auto}}
.grid{{stroke:var(--rule);stroke-width:1}}
.phase{{stroke:var(--quiet);stroke-width:1;stroke-dasharray:3 3}}
.tick{{fill:var(--quiet);font-size:12px;text-anchor:middle;font-variant-numeric:tabular-nums}}
.tick.end{{text-anchor:end}}
.line{{fill:none;stroke-width:2;stroke-linejoin:round}}
.band{{opacity:.2}}
.best{{fill:none;stroke:var(--ink);stroke-width:1.8}}
{_SERIES}
.legend{{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.5rem 0 0;padding:0}}
.key{{width:28px;height:10px}}
.scroll{{overflow-x:auto;margin:.75rem 0;max-width:100%}}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{{outline:2px solid var(--link)}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;vertical-align:top;padding:.3rem .5rem;
border-bottom:1px solid var(--rule)}}
td{{white-space:nowrap}}
td code{{white-space:normal}}
tbody th{{font-weight:500;min-width:6rem}}
thead th{{font-size:.875rem}}
.bar{{display:block;padding:0 .3rem;
background:linear-gradient(var(--bar),var(--bar)) left/var(--w) 100% no-repeat}}
summary{{cursor:pointer;margin-top:1rem}}
"""
