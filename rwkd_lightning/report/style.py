"""The look of the page of a run."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59626d; --line: #d5dae0;
        --c0: #1f5fbf; --c1: #b35900; --c2: #1d7a46; --c3: #8a3fa0; --c4: #59626d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #a0a9b4; --line: #363d46;
          --c0: #7fb0ff; --c1: #f5a860; --c2: #72d39b; --c3: #d49be6; --c4: #a0a9b4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem; background: var(--back); color: var(--ink);
       font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; }
.quiet { color: var(--quiet); font-size: .87rem; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
section { background: var(--card); border-radius: 8px; padding: 1rem; min-width: 0; }
section.wide { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .25rem 0 .25rem 1rem; border-bottom: 1px solid var(--line); vertical-align: top;
         font-variant-numeric: tabular-nums; font-weight: 400; }
tr > :first-child { text-align: left; padding-left: 0; }
.rows td, .rows th { text-align: left; overflow-wrap: anywhere; }
.rows .number { text-align: right; white-space: nowrap; }
svg { display: block; width: 100%; height: auto; }
svg line { stroke: var(--line); } svg line.bar { stroke-width: 2; }
svg line.compared { stroke: var(--quiet); stroke-dasharray: 4 3; }
svg text { fill: var(--quiet); font-size: 11px; }
svg .up, svg .name { text-anchor: end; } svg .across { text-anchor: middle; }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg polygon { fill-opacity: .15; }
svg path { fill: none; stroke-width: 4; stroke-linecap: round; stroke-opacity: .45; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .87rem; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%;
                       margin-right: .4em; background: currentColor; }
""" + "".join(
    f"svg .s{i} {{ stroke: var(--c{i}); }} svg polygon.s{i} {{ fill: var(--c{i}); stroke: none; }}\n"
    f".legend .s{i} {{ color: var(--c{i}); }}\n"
    for i in range(5)
)
