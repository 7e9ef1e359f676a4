"""The look of the page of an audit, and what moves on it."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59626d; --line: #d5dae0;
        --student: #1f5fbf; --teacher: #9a4a00; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #a0a9b4; --line: #363d46;
          --student: #7fb0ff; --teacher: #f5a860; --wrong: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem; background: var(--back); color: var(--ink);
       font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; }
.quiet { color: var(--quiet); font-size: .87rem; }
form { display: flex; flex-wrap: wrap; gap: .6rem 1.4rem; align-items: center; margin: 1rem 0; padding: .8rem 1rem;
       background: var(--card); border-radius: 8px; position: sticky; top: 0; z-index: 1; }
fieldset { border: 0; margin: 0; padding: 0; display: flex; gap: .8rem; align-items: center; }
legend { float: left; padding: 0; margin-right: .8rem; }
input[type=search], select, button { font: inherit; color: inherit; background: var(--back);
       border: 1px solid var(--line); border-radius: 6px; padding: .3rem .5rem; max-width: 100%; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; }
th button { border: 0; padding: 0; background: none; font-weight: 600; cursor: pointer; }
th:nth-child(1) { width: 4.2rem; } th:nth-child(2) { width: 46%; } th:nth-child(6) { width: 8.5rem; }
.student { color: var(--student); } .teacher { color: var(--teacher); } .wrong { color: var(--wrong); }
.second { display: block; margin-top: .3rem; padding-top: .3rem; border-top: 1px dashed var(--line); }
svg { display: block; width: 100%; height: 34px; }
svg path { fill: none; stroke-width: 1.8; } svg text { font-size: 9px; fill: var(--quiet); }
@media (max-width: 720px) {
  body { padding: .8rem; }
  form { position: static; }
  thead { display: none; }
  table, tbody, tr, td { display: block; width: auto; }
  tr { background: var(--card); border-radius: 8px; padding: .5rem .8rem; margin: 0 0 .7rem; }
  td { border: 0; padding: .15rem 0; }
  td[data-name]::before { content: attr(data-name) " "; color: var(--quiet); font-size: .87rem; }
  svg { max-width: 12rem; }
}
"""

SCRIPT = """
'use strict';
const {rows, columns, named} = JSON.parse(document.getElementById('data').textContent);
const form = document.querySelector('form'), body = document.querySelector('tbody'), PAGE = 100;
const said = (r, who) => [r[who], r.sure[who]].filter(x => x).join(' ');
const names = [['rank', r => r.ranks[kind()] ?? Infinity], [columns.join(' and '), r => r.text.join(' ')],
  ['label', r => r.label], ['teacher', r => said(r, 'teacher')], ['student', r => said(r, 'student')],
  ['weights', r => Object.values(r.weights)[0]?.at(-1) ?? -1]];
let by = 0, down = false, shown = PAGE;
function kind() { return form.kind.value; }
function make(tag, text, cls) {
  const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (cls) e.className = cls;
  return e; }
function drawing(weights) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const terms = Object.entries(weights), highest = Math.max(1, ...terms.flatMap(([, v]) => v));
  svg.setAttribute('viewBox', '0 0 120 34'); svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', terms.map(([t, v]) => t + ': ' + v.join(', ')).join('; '));
  terms.forEach(([term, values], i) => {
    const at = values.map((v, j) => v === null ? null : [4 + 76 * (values.length > 1 ? j / (values.length - 1) : 0),
      30 - 26 * v / highest]).filter(p => p);
    if (!at.length) return;
    const path = document.createElementNS(svg.namespaceURI, 'path');
    if (at.length === 1) at.push([at[0][0] + 6, at[0][1]]);
    path.setAttribute('d', 'M' + at.map(p => p.join(' ')).join('L'));
    path.style.stroke = ['var(--student)', 'var(--teacher)', 'var(--quiet)'][Math.min(i, 2)];
    const text = document.createElementNS(svg.namespaceURI, 'text');
    text.setAttribute('x', 84); text.setAttribute('y', 10 + 11 * i);
    text.textContent = term + ' ' + values.filter(v => v !== null).at(-1).toFixed(2);
    svg.append(path, text); });
  return svg; }
function line(row) {
  const tr = make('tr'), rank = make('td', row.ranks[kind()] ?? '', 'quiet'), text = make('td');
  rank.dataset.name = 'rank';
  row.text.forEach((t, i) => text.append(make('span', t, i ? 'second' : '')));
  text.append(make('div', ['idx ' + row.idx, ...row.flags].join(', '), 'quiet'));
  const label = make('td', row.label || 'none', named && row.teacher && row.teacher !== row.label ? 'wrong' : '');
  const cells = [label, make('td', said(row, 'teacher') || 'nothing', 'teacher'),
    make('td', said(row, 'student'), 'student')];
  ['label', 'teacher', 'student'].forEach((n, i) => cells[i].dataset.name = n);
  const weights = make('td'); if (Object.keys(row.weights).length) weights.append(drawing(row.weights));
  tr.append(rank, text, ...cells, weights);
  return tr; }
function draw() {
  const words = form.find.value.toLowerCase().split(/\\s+/).filter(w => w), given = form.given.value;
  const found = rows.filter(r => r.ranks[kind()] && (!given || r.label === given) &&
    (!form.others.checked || (r.teacher === r.student && r.teacher !== r.label)) &&
    words.every(w => [...r.text, r.label, r.teacher, String(r.idx)].join(' ').toLowerCase().includes(w)));
  const value = names[by][1], sign = down ? -1 : 1;
  found.sort((a, b) => { const [x, y] = [value(a), value(b)]; return sign * (x < y ? -1 : x > y ? 1 : 0); });
  body.replaceChildren(...found.slice(0, shown).map(line));
  document.getElementById('more').hidden = found.length <= shown;
  document.getElementById('count').textContent = found.length + ' rows' +
    (found.length > shown ? ', the first ' + shown + ' shown' : ''); }
names.forEach(([name], i) => {
  const th = make('th'), button = make('button', name); button.type = 'button';
  button.onclick = () => { down = by === i ? !down : false; by = i; draw(); };
  th.append(button); document.querySelector('thead tr').append(th); });
[...new Set(rows.map(r => r.label))].sort().forEach(l => {
  const option = make('option', l || 'none'); option.value = l; form.given.append(option); });
form.others.parentElement.hidden = !named;
form.addEventListener('input', () => { shown = PAGE; draw(); });
form.addEventListener('change', () => { by = 0; down = false; shown = PAGE; draw(); });
form.addEventListener('submit', e => e.preventDefault());
document.getElementById('more').onclick = () => { shown += PAGE; draw(); };
draw();
"""
