"use strict";
// The board's table, fed by data/lb/*.js; its view lives in the address. Classic script, no inline code.
(() => {
  const { about, columns, rows } = window.avbenchTable;
  const MOST = 4; // models in one comparison
  const find = (query) => board.querySelector(query);
  const all = (query) => [...board.querySelectorAll(query)];
  const plain = (value) => (Array.isArray(value) ? value[0] : value);
  const always = ({ kind }) => kind === "rank" || kind === "model";
  const inView = (view) => columns.map((c) => always(c) || view === "all" || c.views.includes(view));

  const board = document.getElementById("board");
  const node = find("table");
  const preset = find("#view");
  const filters = all("select[data-column]");
  const titleOf = (select) => columns[select.dataset.column].title;
  const initial = columns[0].kind === "rank" ? [[0, "asc"]] : [];
  const modelAt = columns.findIndex((column) => column.kind === "model");
  const titles = new Map(modelAt < 0 ? [] : rows.map((row) => [row[modelAt][1], row[modelAt][0]]));
  const basket = new Set(); // ids

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // What a cell says, then what stands small beside it.
  function texts(value, { kind, digits }) {
    if (value === null) return [];
    return (Array.isArray(value) ? value : [value]).map((x) => (kind === "number" ? x.toFixed(digits) : String(x)));
  }

  // The same markup as templates/macros.html.j2 writes; text only, so that no metadata becomes markup.
  function cell(value, column, row) {
    const [first, ...rest] = texts(value, column);
    if (first === undefined) return "–";
    const link = (href, inside, tabIndex = 0) => element("a", { href, tabIndex }, inside);
    const card = modelAt >= 0 && `../../evals/${row[modelAt][2]}.html`;
    const bdi = element("bdi", {}, first);
    const made = element("div");
    let small = rest.join(" to ");
    if (column.kind === "rank") made.append(element("b", {}, first));
    else if (column.kind === "number") made.append(card ? link(card, first, -1) : first);
    else if (column.kind === "model") {
      if (about.compare) made.append(element("input", { type: "checkbox", value: rest[0], ariaLabel: "Compare " + first }));
      made.append(link(`../../models/${rest[0]}.html`, bdi));
      small = link(card, "evaluation card");
    } else if (column.kind === "notes") {
      made.append(...[first, ...rest].flatMap((mark) => [link("#note-" + mark, mark), " "]));
      small = "";
    } else made.append(bdi);
    if (small) made.append(" ", element("small", {}, small));
    return made;
  }

  function missingLast(direction) {
    const none = (x) => (x ?? "") === "";
    return (a, b) => {
      if (none(a) || none(b)) return none(a) - none(b);
      return direction * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    };
  }

  function render(column) {
    return (value, purpose, row) => {
      if (purpose === "display") return cell(value, column, row);
      if (purpose !== "filter") return plain(value);
      return texts(value, column).join(" ").replace(/&/g, "&amp;").replace(/</g, "&lt;"); // DataTables decodes it
    };
  }

  node.tHead.replaceChildren(element("tr", {}, ...columns.map((c) =>
    element("th", { className: c.kind, title: c.help }, c.title))));
  node.tBodies[0].replaceChildren();
  DataTable.type("avbench", "order", { asc: missingLast(1), desc: missingLast(-1) });
  const table = new DataTable(node, {
    data: rows,
    columns: columns.map((column, index) => ({
      data: index,
      type: "avbench",
      className: column.kind,
      visible: inView("overview")[index],
      orderable: column.kind !== "notes",
      searchable: column.kind !== "number",
      orderSequence: column.kind === "number" ? ["desc", "asc"] : ["asc", "desc"],
      render: render(column),
    })),
    createdRow: (row, cells) => { row.className = cells[columns.length]; },
    order: initial,
    autoWidth: false,
    pageLength: 100,
    paging: rows.length > 100,
    layout: { topStart: "search", topEnd: "info", bottomStart: null, bottomEnd: "paging" },
    language: {
      search: "Search",
      infoCallback: (_, start, end, whole, found) => (found < whole ? `${found} of ${whole} (filtered)` : `${whole} rows`),
      zeroRecords: "No row matches.",
      aria: { orderableRemove: ": Activate to invert sorting" },
    },
  });
  find(".dt-layout-row").after(find(".tools"));
  Object.assign(find(".dt-layout-table"), { tabIndex: 0, role: "region", ariaLabel: "Table, scrolls sideways" });
  board.append(find("#basket"), find(".downloads"));
  board.classList.add("live");

  const shown = () => table.columns().visible().toArray();
  const options = [...preset.options].map((option) => option.value);

  function show(marks) {
    for (const state of [true, false]) table.columns((index) => marks[index] === state).visible(state);
  }

  function update() {
    const marks = shown();
    all(".tools input").forEach((box, index) => { box.checked = marks[index]; });
    preset.value = options.find((view) => inView(view).join() === marks.join()) || "own";
    for (const box of all("tbody input")) {
      box.checked = basket.has(box.value);
      box.disabled = !box.checked && basket.size >= MOST;
    }
    const href = `../../compare.html#board=${about.board}&models=${[...basket]}`;
    const names = [...basket].flatMap((id) => [element("bdi", {}, titles.get(id)), " · "]);
    const go = basket.size > 1 ? element("a", { href }, `Compare ${basket.size} models`) : "tick one more to compare";
    find("#basket").hidden = !basket.size;
    find("#basket").replaceChildren(...names, go);
    save(marks);
  }

  // The whole view in the address; what is as at first is left out.
  function save(marks) {
    const view = new URLSearchParams();
    const put = (name, value) => value && view.append(name, value);
    put("q", table.search());
    filters.forEach((select) => put(titleOf(select), select.value));
    const order = table.order().map(([index, way]) => (way === "desc" ? "-" : "") + columns[index].title);
    if (String(order) !== (initial.length ? columns[0].title : "")) order.forEach((text) => put("sort", text));
    put("view", preset.value !== options[0] && preset.value);
    if (preset.value === "own") columns.forEach((c, i) => put("col", marks[i] && !always(c) && c.title));
    put("models", [...basket].join());
    const hash = String(view) && "#" + view;
    if (hash || location.hash.includes("=")) history.replaceState(null, "", location.href.split("#")[0] + hash);
  }

  // What the address names and this board does not have is ignored.
  function restore() {
    if (location.hash.length > 1 && !location.hash.includes("=")) return; // a place in the page
    const view = new URLSearchParams(location.hash.slice(1));
    for (const select of [preset, ...filters]) {
      select.value = view.get(select === preset ? "view" : titleOf(select)) ?? "";
      if (select.selectedIndex < 0) select.selectedIndex = 0;
    }
    const own = columns.map((c) => always(c) || view.getAll("col").includes(c.title));
    show(preset.value === "own" ? own : inView(preset.value));
    const order = view.getAll("sort")
      .map((text) => [columns.findIndex((c) => c.title === text.replace(/^-/, "")), text[0] === "-" ? "desc" : "asc"])
      .filter(([index]) => index >= 0);
    basket.clear();
    const models = (view.get("models") || "").split(",").filter((id) => about.compare && titles.has(id));
    models.slice(0, MOST).forEach((id) => basket.add(id));
    table.search(view.get("q") || "").order(order.length ? order : initial).draw();
  }

  const inSight = () => columns.filter((_, index) => shown()[index]);

  // The view as lines of texts, titles first.
  function lines(titles, write) {
    const kept = inSight().map((column) => [column, columns.indexOf(column)]);
    const line = (row) => kept.flatMap(([column, index]) => write(texts(row[index], column), column));
    return [kept.flatMap(([column]) => titles(column)), ...table.rows({ search: "applied" }).data().toArray().map(line)];
  }

  function sheet(escape) {
    const one = ([first = "–", ...rest], { kind }) =>
      escape(rest.length && kind !== "model" ? `${first} (${rest.join(kind === "notes" ? ", " : " to ")})` : first);
    return lines((column) => escape(column.title), one);
  }

  const SPECIAL = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--" };
  const tex = (text) => text.replace(/[\\{}~^&%$#_–]/g, (sign) => SPECIAL[sign] || "\\" + sign);
  const safe = (text) => text.replace(/^[=+\-@\t\r]/, "'$&"); // no formula of a spreadsheet
  const writers = {
    csv: () => lines((column) => column.fields.map(safe), (cell, { kind, fields }) => kind === "notes" ? cell.join(" ")
      : fields.map((_, index) => cell[index] ?? "").map(kind === "number" ? String : safe))
      .map((line) => line.map((text) => `"${text.replace(/"/g, '""')}"`).join() + "\r\n").join(""),
    md() {
      const [head, ...body] = sheet((text) => text.replace(/[\\`*_{}[\]<>|#~&]/g, "\\$&"));
      const table = [head, head.map(() => "---"), ...body].map((line) => `| ${line.join(" | ")} |\n`);
      return `${table.join("")}\n${about.title} ${location.href}\n`;
    },
    tex() {
      const [head, ...body] = sheet(tex).map((line) => line.join(" & ") + " \\\\\n");
      const places = inSight().map(({ kind }) => (kind === "number" ? "r" : "l")).join("");
      return `% ${about.title} ${location.href}\n\\begin{tabular}{${places}}\n${head}\\hline\n${body.join("")}\\end{tabular}\n`;
    },
    bib: () => about.bibtex.replace("ROWS", find(".dt-info").textContent).replace("ADDRESS", location.href),
  };

  find(".downloads").addEventListener("click", ({ target: { value } }) => {
    if (!writers[value]) return;
    const href = URL.createObjectURL(new Blob([writers[value]()], { type: "text/plain" }));
    element("a", { href, download: `${about.file}.${value}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  });
  find(".tools").addEventListener("change", ({ target }) => {
    if (target === preset) show(preset.value === "own" ? shown() : inView(preset.value));
    else if (target.type === "checkbox") table.column(target.value).visible(target.checked);
    else table.draw();
    update();
  });
  node.tBodies[0].addEventListener("change", ({ target }) => {
    if (target.checked) basket.add(target.value);
    else basket.delete(target.value);
    update();
  });
  table.search.fixed("filters", (text, row) =>
    filters.every((select) => !select.value || String(plain(row[select.dataset.column])) === select.value));
  table.on("draw", update);
  addEventListener("hashchange", restore);
  restore();
})();
