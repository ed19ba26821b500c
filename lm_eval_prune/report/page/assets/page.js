"use strict";
// The page's behaviour: the table sorted and filtered as the command does it, rows that open, charts drawn when seen.
(() => {
  const filters = document.getElementById("filters");
  // A cell's key is "shots|row|value": rows stay together by number of shots, missing values come last and equal ones
  // keep the order of rank, whatever the direction.
  const compared = (direction, values) => (a, b) => {
    const [shotsA, rowA, valueA] = split(a), [shotsB, rowB, valueB] = split(b);
    const missing = (valueA === "") - (valueB === "");
    return shotsA - shotsB || missing || direction * values(valueA, valueB) || rowA - rowB;
  };
  const numbers = (a, b) => a - b, texts = (a, b) => (a > b) - (a < b);
  function split(key) {
    const [, shots, row, value] = /^(\d+)\|(\d+)\|(.*)$/s.exec(key);
    return [Number(shots), Number(row), value];
  }
  DataTable.type("grouped-number", { order: { asc: compared(1, numbers), desc: compared(-1, numbers) } });
  DataTable.type("grouped-text", { order: { asc: compared(1, texts), desc: compared(-1, texts) } });

  function enhanced(table, sort) {
    const heads = [...table.tHead.rows[0].cells];
    const column = Math.max(0, heads.findIndex((head) => head.dataset.sort === sort));
    return new DataTable(table, {
      paging: false, info: false, autoWidth: false, layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [[column, heads[column].dataset.first]],
      columns: heads.map((head) => ({
        type: head.dataset.kind === "text" ? "grouped-text" : "grouped-number",
        orderSequence: head.dataset.first === "desc" ? ["desc", "asc"] : ["asc", "desc"],
      })),
      language: { emptyTable: "No rows", zeroRecords: "No row fits these filters" },
    });
  }

  function wanted(row, beside) {
    const data = row.dataset;
    const words = filters.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shots = filters.elements.shots.value;
    return words.every((word) => data.text.includes(word))
      && (!filters.elements.ranking.value || data.ranking === filters.elements.ranking.value)
      && (!filters.elements.model?.value || data.model === filters.elements.model.value)
      && (beside || !shots || data.shots === shots);
  }

  const settings = document.getElementById("numbers");
  const board = enhanced(document.getElementById("board"), settings.dataset.sort);
  board.search.fixed("page", (text, data, index) => wanted(board.row(index).node(), false));
  const sidesTable = document.getElementById("sides");
  let sides = null; // made when first looked at

  board.on("draw", () => { // a line where the number of shots changes
    let before = null;
    for (const row of board.rows({ search: "applied", order: "applied" }).nodes().toArray()) {
      row.classList.toggle("group", before !== null && row.dataset.shots !== before);
      before = row.dataset.shots;
    }
  });

  function refresh() {
    const beside = filters.elements.shots.value === "beside";
    document.getElementById("all").hidden = beside;
    if (sidesTable) document.getElementById("beside").hidden = !beside;
    if (beside && !sides) {
      sides = enhanced(sidesTable, "variant");
      sides.search.fixed("page", (text, data, index) => wanted(sides.row(index).node(), true));
    }
    const shown = beside ? sides : board;
    shown.draw();
    const count = shown.rows({ search: "applied" }).count(), all = shown.rows().count();
    document.getElementById("count").textContent = count === all ? `${all} rows` : `${count} of ${all} rows`;
    document.body.classList.toggle("with-p", filters.elements.p.checked);
    document.body.classList.toggle("without-differences", !filters.elements.differences.checked);
  }
  filters.addEventListener("input", refresh);
  filters.addEventListener("submit", (event) => event.preventDefault());
  refresh();

  document.addEventListener("keydown", (event) => { // DataTables knows Enter; a button answers the space bar too
    if (event.key !== " " || !event.target.matches(".dt-column-order")) return;
    event.preventDefault();
    event.target.click();
  });

  // -- rows that open

  function listed(pairs) {
    const list = document.createElement("dl");
    for (const [term, text] of pairs) {
      if (!text) continue;
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = term;
      value.textContent = text;
      list.append(name, value);
    }
    return list;
  }
  function details(row) {
    const heads = document.querySelectorAll("#board thead th");
    const numbers = [...row.cells].map((cell, place) => [heads[place].querySelector(".clip")?.textContent, cell.title]);
    return listed([...JSON.parse(row.dataset.about), ...numbers]);
  }
  document.getElementById("board").addEventListener("click", (event) => {
    const button = event.target.closest(".more");
    if (!button) return;
    const row = board.row(button.closest("tr"));
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) row.child.remove();
    else row.child(details(row.node()), "details").show();
  });

  // -- masks

  let masks = null; // unpacked when first looked at
  function unpacked() {
    const bytes = Uint8Array.from(atob(document.getElementById("masks").textContent), (byte) => byte.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  }
  for (const place of document.querySelectorAll("[data-masks]")) {
    place.addEventListener("toggle", async () => {
      const all = await (masks ??= unpacked()), own = all.masks[place.dataset.masks];
      place.append(listed(own.map(([where, parts]) => [where, parts.map((part) => all.parts[part]).join("; ")])));
    }, { once: true });
  }

  // -- charts

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();
  function loadVega() { // run only now: its source is a third of the page
    if (window.vegaEmbed) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("vega").textContent;
    document.head.append(script);
  }
  async function draw(place) {
    loadVega();
    const spec = { ...charts.specs[place.dataset.chart], config: dark.matches ? charts.dark : charts.light };
    views.get(place)?.finalize();
    const made = await vegaEmbed(place, spec, {
      ast: true, // expressions are interpreted: the page's policy forbids eval
      mode: "vega-lite",
      renderer: "canvas",
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    views.set(place, made);
    place.classList.add("drawn");
  }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target).catch((error) => {
        console.error(error);
        entry.target.textContent = `This figure could not be drawn: ${error.message}`;
      });
    }
  }, { rootMargin: "200px" });
  for (const place of document.querySelectorAll("[data-chart]")) seen.observe(place);
  dark.addEventListener("change", () => { for (const place of views.keys()) draw(place); });
  addEventListener("beforeprint", () => { for (const place of document.querySelectorAll("[data-chart]:not(.drawn)")) draw(place); });
})();
