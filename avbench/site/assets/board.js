"use strict";
// The board's table, fed with the JSON in the page. Classic script, no inline code: works from file://.
(function () {
  function element(name, className, text) {
    var node = document.createElement(name);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  }

  // The same markup as templates/macros.html.j2 writes; text only, so that no metadata becomes markup.
  function parts(value, column) {
    var show = function (x) { return x.toFixed(column.digits); };
    if (value === null) return ["–"];
    if (column.kind === "rank") return [element("b", "", value[0]), " ", element("small", "", value[1])];
    if (column.kind === "link") {
      var link = element("a", "", "");
      link.append(element("bdi", "", value[0]));
      link.setAttribute("href", value[1]);
      return [link];
    }
    if (column.kind === "notes") {
      return value.flatMap(function (mark, index) {
        var note = element("a", "", mark);
        note.setAttribute("href", "#note-" + mark);
        return index ? [" ", note] : [note];
      });
    }
    if (column.kind === "number") {
      if (!Array.isArray(value)) return [show(value)];
      return [show(value[0]) + " ", element("small", "", show(value[1]) + " to " + show(value[2]))];
    }
    return [element("bdi", "", value)];
  }

  function plain(value) {
    return Array.isArray(value) ? value[0] : value;
  }

  function missingLast(direction) {
    return function (a, b) {
      var none = function (x) { return x === null || x === undefined || x === ""; };
      if (none(a) || none(b)) return none(a) - none(b);
      if (typeof a === "string") return direction * a.localeCompare(b, "en", { numeric: true });
      return direction * (a - b);
    };
  }

  function columnOf(column, index) {
    var high = column.kind === "number";
    return {
      data: index,
      type: "avbench",
      className: column.kind,
      visible: !column.detail,
      orderable: column.kind !== "notes",
      orderSequence: high ? ["desc", "asc"] : ["asc", "desc"],
      render: function (value, purpose) {
        if (purpose === "sort" || purpose === "type") return plain(value);
        if (purpose === "filter") return value === null ? "" : String(plain(value));
        var box = document.createElement("div");
        box.append.apply(box, parts(value, column));
        return box;
      },
    };
  }

  function detailSwitch(table, columns) {
    var details = columns.map(function (c, i) { return c.detail ? i : -1; }).filter(function (i) { return i >= 0; });
    if (!details.length) return;
    var label = element("label", "switch", " per-attack columns");
    var box = document.createElement("input");
    box.type = "checkbox";
    label.prepend(box);
    box.addEventListener("change", function () { table.columns(details).visible(box.checked); });
    document.querySelector("#board .dt-layout-start").append(label);
  }

  function board() {
    var source = document.getElementById("board-data");
    if (!source || typeof DataTable === "undefined") return;
    var data = JSON.parse(source.textContent);
    var last = data.columns.length;
    DataTable.type("avbench", "order", { asc: missingLast(1), desc: missingLast(-1) });
    document.querySelector("#table tbody").replaceChildren();
    var table = new DataTable("#table", {
      data: data.rows,
      columns: data.columns.map(columnOf),
      createdRow: function (row, cells) { row.className = cells[last]; },
      order: data.columns[0].kind === "rank" ? [[0, "asc"]] : [],
      autoWidth: false,
      pageLength: 100,
      paging: data.rows.length > 100,
      layout: { topStart: "search", topEnd: "info", bottomStart: null, bottomEnd: data.rows.length > 100 ? "paging" : null },
      language: {
        search: "",
        searchPlaceholder: "Filter rows",
        info: "_TOTAL_ rows",
        infoEmpty: "0 rows",
        infoFiltered: "of _MAX_ (filtered)",
        zeroRecords: "No row matches the filter.",
        aria: { orderableRemove: ": Activate to invert sorting" },
      },
    });
    var input = document.querySelector("#board input[type=search]");
    if (input) input.setAttribute("aria-label", "Filter rows");
    detailSwitch(table, data.columns);
    var region = document.querySelector("#board .dt-layout-table");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", "Leaderboard table, scrolls sideways");
    document.getElementById("board").classList.add("live");
  }

  document.addEventListener("DOMContentLoaded", board);
})();
