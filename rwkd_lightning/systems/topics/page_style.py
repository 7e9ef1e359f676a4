"""The look of the page of topics. Blue is the student, orange its teacher, everywhere; all else is grey."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59626d; --line: #d5dae0;
        --student: #1f5fbf; --teacher: #9a4a00; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #a0a9b4; --line: #363d46;
          --student: #7fb0ff; --teacher: #f5a860; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem; background: var(--back); color: var(--ink);
       font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0 .8rem; }
.quiet, figcaption { color: var(--quiet); font-size: .87rem; }
.student { color: var(--student); }
.teacher { color: var(--teacher); }
table { border-collapse: collapse; }
th, td { text-align: right; padding: .2rem 0 .2rem 1.6rem; border-bottom: 1px solid var(--line);
         font-variant-numeric: tabular-nums; }
tr > :first-child { text-align: left; padding-left: 0; }
thead th { font-weight: 600; }
tbody th { font-weight: 400; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; background: var(--card); border-radius: 8px; }
svg circle { fill: var(--student); fill-opacity: .28; stroke: var(--student); stroke-width: 1.2; }
svg a:hover circle, svg a:focus circle { fill-opacity: .6; }
svg text { fill: var(--ink); font-size: 11px; }
svg .number { font-weight: 700; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 1rem; align-items: start; }
article { background: var(--card); border: 2px solid transparent; border-radius: 8px; padding: .8rem 1rem;
          scroll-margin-top: 1rem; overflow-wrap: anywhere; }
article:target { border-color: var(--student); }
article ol { list-style: none; margin: .5rem 0; padding: 0; }
.words li { display: grid; grid-template-columns: 8.5em 1fr 3.4em; gap: .6rem; align-items: center; }
.words .bar { height: .6rem; border-radius: 2px; background: var(--student); min-width: 1px; }
.words .share { text-align: right; color: var(--quiet); font-size: .87rem; font-variant-numeric: tabular-nums; }
.match { border-top: 1px solid var(--line); padding-top: .5rem; margin: .5rem 0; font-size: .9rem; }
details { border-top: 1px solid var(--line); padding-top: .4rem; font-size: .9rem; }
summary { cursor: pointer; color: var(--quiet); }
.examples li { margin: .4rem 0; }
.examples b { font-variant-numeric: tabular-nums; font-weight: 600; }
"""
