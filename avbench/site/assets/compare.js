"use strict";
// Compare models of one board: figures come ready from data/*.js, agreement is counted here.
(() => {
  const [board, status, out] = ["board", "status", "result"].map((id) => document.getElementById(id));
  const selects = [...document.querySelectorAll("#choose .model")];
  let data;

  const list = (figure, run, ids) => ids.length ? html`<p><b>${figure}, only <bdi>${run.title}</bdi> right
    (${ids.length}):</b> ${ids.slice(0, 100).join(", ")}${ids.length > 100 ? ", …" : ""}</p>` : "";
  const clip = (run, id, words) => html`<a href="models/${run.id}.html#${run.evidence[id]}">${words}</a>`;

  function pair(i, j) {
    const both = [data.runs[i], data.runs[j]], [one, other] = both;
    const title = html`<h3>${linked(one)} minus ${linked(other)}</h3>`;
    const lists = [];
    const made = data.pairs[(j * (j - 1)) / 2 + i]; // of the first runs of a long board
    const rows = (made ?? data.figures.map(() => [])).map(([difference, low, high, p], f) => {
      const row = made
        ? [data.figures[f], html`${difference} <small>${low} to ${high}</small>`, p < 1e-4 ? "< 0.0001" : (+p).toFixed(4)]
        : [data.figures[f], "–", "–"];
      if (row[0] === "Avg") return [...row, "–", "–", "–", "–"];
      const found = [[], [], [], []];
      data.samples.forEach((id, s) => {
        const [a, b] = both.map((run) => run.marks[Math.floor(f / 5)].charCodeAt(s) - 48);
        if (a >= 0 && b >= 0) found[2 * ((a >> f % 5) & 1) + ((b >> f % 5) & 1)].push(id);
      });
      lists.push(list(row[0], one, found[2]), list(row[0], other, found[1]));
      return [...row, ...found.map((ids) => ids.length).reverse()];
    });
    if (!rows.length) return html`${title}<p>They have no sample in common.</p>`;
    const heads = ["Figure", "Difference", "p", "Both right", "Only first", "Only second", "Both wrong"];
    const shown = Object.keys(one.evidence).filter((id) => Object.hasOwn(other.evidence, id));
    return html`${title}${table(`${one.title} minus ${other.title}`, heads, rows)}
      ${made ? "" : html`<p>This board is long; for these two, <code>avbench compare RUN RUN</code> prints the dashes.</p>`}
      ${shown.length ? html`<p>The same clip attacked for each: ${shown.map((id) =>
        html`<bdi>${id}</bdi> (${clip(one, id, "first")}, ${clip(other, id, "second")}) `)}</p>` : ""}
      <details><summary>Samples on which they differ</summary>${lists}</details>`;
  }

  const line = (k, points) => html`<polyline class="line c${k}" points="${points}"/>`;
  const curves = (runs) => html`<h2>Strength curves</h2><ul class="key">${runs.map((run, k) => html`<li>
    <svg viewBox="0 0 24 8" aria-hidden="true">${line(k, "0,4 24,4")}</svg><bdi>${run.title}</bdi></li>`)}</ul>
    <div class="curves">${data.curves.map(([title, most], c) => html`<figure>
    <figcaption>${title}: accuracy (%) against radius</figcaption>
    <svg viewBox="0 0 360 195" aria-hidden="true"><path class="axis" d="M40 10V170H340"/><text x="8" y="14">100</text>
    <text x="24" y="174">0</text><text x="38" y="188">0</text><text x="340" y="188" text-anchor="end">${most}</text>
    ${runs.map((run, k) => line(k, run.curves[c]))}</svg></figure>`)}</div>`;

  function show() {
    const chosen = [...new Set(selects.map((one) => one.value))].filter(Boolean).map(Number).sort((a, b) => a - b);
    const runs = chosen.map((i) => data.runs[i]);
    history.replaceState(null, "", `#board=${data.board}&models=${runs.map((run) => run.id)}`);
    status.textContent = runs.length > 1 ? `${runs.length} models of ${data.title}` : "Choose two models.";
    const rows = runs.map((run) => [linked(run), ...avgFirst(data.figures, run.values.map(number)), run.n]);
    out.innerHTML = runs.length > 1 ? html`<h2>Accuracy, %</h2>${table("Accuracy", ["Model", ...avgFirst(data.figures, data.figures), "n"], rows)}
      ${data.curves.length ? curves(runs) : ""}<h2>Paired differences, points</h2>
      ${chosen.flatMap((i, k) => chosen.slice(k + 1).map((j) => pair(i, j)))}`.text : "";
  }

  async function offer(ids) {
    const asked = board.value;
    const found = await load(asked);
    if (board.value !== asked) return;
    data = found;
    const places = ids.map((id) => data.runs.findIndex((run) => run.id === id)).filter((i) => i >= 0);
    selects.forEach((select, k) => {
      select.replaceChildren(new Option("none", ""), ...data.runs.map((run, i) => new Option(run.title, i)));
      select.value = places.length ? places[k] ?? "" : k < Math.min(2, data.runs.length) ? k : "";
    });
    show();
  }

  function start(ids) {
    offer(ids).catch((error) => { status.textContent = error.message; });
  }

  function follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if ([...board.options].some((option) => option.value === asked.get("board"))) board.value = asked.get("board");
    start((asked.get("models") ?? "").split(",").slice(0, selects.length));
  }

  selects.forEach((select) => select.addEventListener("change", show));
  board.addEventListener("change", () => start([]));
  window.addEventListener("hashchange", follow);
  follow();
})();
