"use strict";
// Check a rows.parquet and place it on its board; the file stays in the page.
(() => {
  const BYTES = 2 ** 26, ROWS = 2e6, MARKS = 5e7; // no run of avbench has more, and the page would hang
  const [input, status, out] = ["file", "status", "result"].map((id) => document.getElementById(id));
  const known = JSON.parse(document.getElementById("boards").textContent);
  const refuse = (why) => { throw new Error(why.slice(0, 300)); };
  // Ties go to the even digit, as in Python; of doubles only odd eighths are ties at two digits.
  const show = (value) => (value - ((value * 8) % 4 === 1 ? 1e-9 : 0)).toFixed(2);

  async function read(file) {
    if (file.size > BYTES) refuse(`it has more than ${BYTES / 2 ** 20} MB`);
    try {
      const buffer = await file.arrayBuffer();
      const metadata = hyparquet.parquetMetadata(buffer, { geoparquet: false });
      const count = metadata.row_groups.reduce((sum, group) => sum + Number(group.num_rows), 0);
      if (!(count > 0 && count <= ROWS)) refuse(`${count} rows; 1 to ${ROWS} can be read here`);
      if (metadata.schema.some((one) => one.name === "scores")) refuse("clips with several labels have no accuracy");
      const columns = await Promise.all(["sample", "threat", "attack", "correct", "margin"].map((name) =>
        hyparquet.parquetReadColumn({ file: buffer, metadata, columns: [name] })));
      if (columns.some((column) => column.length !== count)) refuse("rows are missing");
      return columns;
    } catch (error) {
      return refuse(`it is not Parquet as avbench writes it, or cut off (${error.message})`);
    }
  }

  function tally([sample, threat, attack, correct, margin]) {
    const places = new Map(), cells = new Map();
    sample.forEach((id) => places.has(id) || places.set(id, places.size));
    sample.forEach((id, i) => {
      const cell = `${threat[i]} ${attack[i]}`, row = `row ${i + 1} (${id}, ${cell})`;
      if (typeof id !== "string" || typeof correct[i] !== "boolean") refuse(`${row} has no sample or no verdict`);
      if (Number.isNaN(margin[i] ?? NaN)) refuse(`${row} has the margin ${margin[i]}`);
      if (!cells.has(cell)) {
        if ((cells.size + 1) * places.size > MARKS) refuse("it has too many samples, threats and attacks");
        cells.set(cell, new Int8Array(places.size).fill(-1));
      }
      const marks = cells.get(cell), place = places.get(id);
      if (marks[place] >= 0) refuse(`${row} is there twice; drop one run at a time`);
      marks[place] = correct[i];
    });
    const clean = cells.get("clean none");
    if (!clean || clean.includes(-1)) refuse("samples lack the row of their clean clip; evaluate again to complete it");
    return { samples: [...places.keys()], cells, clean };
  }

  async function find({ samples, cells }) {
    const own = [...cells.keys()].filter((cell) => !cell.startsWith("clean "));
    const fitting = known.boards.filter(({ every, cells }) =>
      own.every((cell) => cells.includes(cell)) && (!every || own.length === cells.length));
    for (const board of fitting.filter((one) => one.board)) {
      const data = await load(board.board), ids = new Set(data.samples);
      const strange = samples.filter((id) => !ids.has(id));
      if (strange.length === samples.length) continue;
      if (!strange.length || ids.size < data.size) return [board, data];
      refuse(`${strange.length} samples, such as ${strange[0]}, are not of ${board.title}`);
    }
    return [fitting.find((one) => !one.board) ?? refuse("no board or suite has its threats and attacks"), null];
  }

  const survive = ({ samples, cells, clean }, inside) => clean.map((right, s) => {
    const marks = inside.map((cell) => cells.get(cell)?.[s] ?? -1);
    const robust = right && !marks.includes(0);
    if (robust && marks.includes(-1)) {
      refuse(`${samples[s]} has no row for ${inside[marks.indexOf(-1)]}, and nothing broke it; evaluate again to complete it`);
    }
    return robust;
  });

  async function place(file) {
    const run = tally(await read(file)), n = run.samples.length;
    const [board, data] = await find(run);
    const threats = board.inside.map((inside) => survive(run, inside.map((i) => board.cells[i])));
    const hits = [run.clean, ...threats].map((marks) => marks.reduce((sum, mark) => sum + mark, 0));
    const values = hits.map((right) => 100 * (right / n));
    if (board.figures.includes("Avg")) values.push(+((100 * (hits[1] + hits[2] + hits[3])) / (3 * n)).toFixed(9));
    const partial = data && 100 * n < known.coverage * data.size;
    const ranked = data ? data.runs.filter((one) => one.place) : [];
    const first = (list) => avgFirst(board.figures, list);
    const takes = ranked.length && !partial;
    const better = ranked.filter((one) => one.exact > values.at(-1)).length;
    const rows = ranked.map((one) => [linked(one), one.place + (takes && one.exact < values.at(-1)), ...first(one.values.map(number))]);
    const mine = [html`Your file <small>not verified, not published</small>`, takes ? better + 1 : "–", ...first(values.map(show))];
    rows.splice(better, 0, mine.map((cell) => html`<b>${cell}</b>`));
    out.innerHTML = html`<h2>${board.title}</h2>${table("Places", ["Model", "Place", ...first(board.figures)], rows)}`.text;
    return `${n} samples; nothing was uploaded. ` + (takes ? `Place ${better + 1}, not verified, not published.`
      : partial ? `Partial: ${n} of ${data.size} samples, so it takes no place.`
      : data ? "Nothing ranks on this board." : "No board here has its samples, so it takes no place.");
  }

  async function take([file]) {
    if (!file) return;
    status.textContent = "Reading …";
    out.replaceChildren();
    const found = await place(file).catch((error) => `refused: ${error.message}.`);
    status.textContent = `${file.name}: ${found}`;
  }

  input.addEventListener("change", () => take(input.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
})();
