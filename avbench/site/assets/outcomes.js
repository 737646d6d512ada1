"use strict";
// For compare.js and try.js: markup in which text stays text, tables, and the outcomes on a board.
class Markup { constructor(text) { this.text = text; } }
const escaped = (value) => value instanceof Markup ? value.text : Array.isArray(value) ? value.map(escaped).join("")
  : String(value).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt()};`);
const html = (parts, ...values) => new Markup(parts.reduce((all, part, i) => all + escaped(values[i - 1]) + part));

const table = (label, heads, rows) => html`<div class="board" role="region" tabindex="0" aria-label="${label}"><table>
<thead><tr>${heads.map((head, i) => html`<th scope="col" class="${i ? "number" : ""}">${head}</th>`)}</tr></thead>
<tbody>${rows.map(([head, ...cells]) => html`<tr><th scope="row">${head}</th>
${cells.map((cell) => html`<td class="number">${cell}</td>`)}</tr>`)}</tbody></table></div>`;
const number = ([value, low, high]) => html`${value.toFixed(2)} <small>${low.toFixed(2)} to ${high.toFixed(2)}</small>`;
// What decides the place stands first, as on boards.
const avgFirst = (figures, list) => figures.at(-1) === "Avg" ? [list.at(-1), ...list.slice(0, -1)] : list;
const linked = (run) => html`<a href="models/${run.id}.html"><bdi>${run.title}</bdi></a>`;

const boards = {};
const avbenchBoard = (data) => { boards[data.board] = data; };
const load = (board) => boards[board] ?? new Promise((done, fail) => {
  const script = document.createElement("script");
  script.src = `data/${board}.js`;
  script.onload = () => done(boards[board]);
  script.onerror = () => fail(new Error(`data/${board}.js is missing; copy the whole site`));
  document.head.append(script);
});
