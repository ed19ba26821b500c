// The page's controls: each changes the view, the view goes into the address, and all that is shown follows from it.

async function start() {
  const data = await unpacked("table"), controls = document.getElementById("controls");
  data.rows.forEach((row, place) => { row.place = place; });
  const ids = new Set(data.rows.map((row) => row.id));
  const opening = { ...JSON.parse(document.getElementById("opening").textContent), ranking: "", model: "", direction: "", left: "parameters", differences: true, p: false, page: 1, hide: [], compare: [], open: [] };
  const options = (name) => new Set([...controls.elements[name]?.options ?? []].map((option) => option.value));
  const shotsThere = new Set(["", ...data.shots.map((one) => String(one.id)), ...(data.shots.length > 1 ? ["beside"] : [])]);
  const allowed = {
    shots: (one) => shotsThere.has(one), ranking: (one) => options("ranking").has(one), model: (one) => options("model").has(one),
    left: (one) => one === "all" || data.left.some((left) => left.id === one), direction: (one) => ["asc", "desc"].includes(one),
    page: (one) => /^[1-9]\d{0,5}$/.test(one), compare: (one) => ids.has(one), open: (one) => ids.has(one), hide: () => true,
  };
  let view = opening, shown = null;

  const frame = document.getElementById("all"), table = document.getElementById("board");
  const follow = keepHeadInSight(frame, table);

  /** Everything that a view shows: columns, rows in order, and those of its page. */
  function looked(view) {
    const columns = columnsOf(data, view);
    const sort = columns.find((column) => column.id === view.sort) ?? columns.findLast((column) => column.kind === "value" && view.shots === "beside") ?? columns[0];
    const direction = view.direction || sort.first;
    const rows = sorted(rowsOf(data, view), sort, direction, view.shots === "beside");
    const pages = Math.max(1, Math.ceil(rows.length / ROWS_A_PAGE)), page = Math.min(view.page, pages);
    return { columns, sort: sort.id, direction, rows, pages, page };
  }

  function change(part, keepPage = false) {
    view = { ...view, ...(keepPage ? {} : { page: 1 }), ...part };
    const fragment = fragmentOf(view, opening);
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
    show();
  }

  function show(whole = false) {
    shown = looked(view);
    const rows = whole ? shown.rows : shown.rows.slice((shown.page - 1) * ROWS_A_PAGE, shown.page * ROWS_A_PAGE);
    const place = heldFocus();
    shown.visible = drawTable(table, { ...shown, data, view, rows, on });
    place();
    document.body.classList.toggle("with-p", view.p);
    document.body.classList.toggle("without-differences", !view.differences);
    sayHowMany();
    controlsAsViewed();
    showComparison(document.getElementById("comparison"), view.compare, data, on);
    follow();
  }

  /** The table is made anew: what had the focus has it again afterwards. */
  function heldFocus() {
    const held = document.activeElement;
    if (!table.contains(held)) return () => {};
    const line = held.closest("tr")?.dataset.id, column = held.closest("th")?.dataset.sort, kind = held.matches(".sort, .more") ? held.classList[0] : "pick input";
    return () => {
      const again = line ? [...table.tBodies[0].rows].find((row) => row.dataset.id === line)?.querySelector(`.${kind}`)
        : [...table.tHead.rows[0].cells].find((cell) => cell.dataset.sort === column)?.querySelector(".sort");
      again?.focus({ preventScroll: true });
    };
  }

  const on = {
    sort: (column) => {
      const turned = { asc: "desc", desc: "asc" };
      change({ sort: column.id, direction: shown.sort === column.id ? turned[shown.direction] : column.first });
    },
    open: (id) => change({ open: view.open.includes(id) ? view.open.filter((one) => one !== id) : [...view.open, id] }, true),
    compare: (id, chosen) => change({ compare: chosen ? [...view.compare, id].slice(-2) : view.compare.filter((one) => one !== id) }, true),
    endComparison: () => change({ compare: [] }, true),
  };

  function sayHowMany() {
    const all = view.shots === "beside" ? new Set(data.rows.map((row) => row.label)).size : data.rows.length, { rows, page, pages } = shown;
    const first = (page - 1) * ROWS_A_PAGE + 1, last = Math.min(rows.length, page * ROWS_A_PAGE);
    const of = rows.length === all ? `${all} rows` : `${rows.length} of ${all} rows`;
    document.getElementById("count").textContent = pages > 1 ? `${of}; here ${first} to ${last}` : of;
    document.getElementById("pages").hidden = pages === 1;
    document.getElementById("back").disabled = page === 1;
    document.getElementById("on").disabled = page === pages;
    document.getElementById("page-number").textContent = `page ${page} of ${pages}`;
  }

  function controlsAsViewed() {
    for (const control of controls.elements) {
      if (control.name === "column") control.checked = !view.hide.includes(control.value);
      else if (control.name === "sort") fillSort(control);
      else if (control.type === "radio") control.checked = control.value === view[control.name];
      else if (control.type === "checkbox") control.checked = view[control.name];
      else if (control.name && control !== document.activeElement) control.value = view[control.name];
    }
    for (const box of controls.querySelectorAll('[name="column"]')) box.closest("label").hidden = !shown.columns.some((column) => column.id === box.value);
  }
  function fillSort(control) {
    control.replaceChildren(...shown.columns.map((column) => element("option", { value: column.id }, column.name)));
    control.value = shown.sort;
  }

  function columnChooser() {
    const columns = new Map();
    for (const shots of ["", "beside"]) for (const column of columnsOf(data, { ...view, shots, left: "all" })) columns.set(column.id, column);
    const place = document.getElementById("columns");
    for (const column of columns.values()) {
      if (!column.fixed) place.append(element("label", {}, element("input", { type: "checkbox", name: "column", value: column.id }), " ", clipped(column.name)));
    }
  }

  controls.addEventListener("input", (event) => {
    const { name, value, checked, type } = event.target;
    if (name === "column") change({ hide: checked ? view.hide.filter((one) => one !== value) : [...view.hide, value] }, true);
    else if (name === "sort") change({ sort: value, direction: shown.columns.find((column) => column.id === value).first });
    else change({ [name]: type === "checkbox" ? checked : value });
  });
  document.getElementById("more").addEventListener("click", (event) => {
    const all = controls.classList.toggle("all");
    event.currentTarget.setAttribute("aria-expanded", String(all));
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  const menu = document.querySelector(".menu");
  addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.getElementById("back").addEventListener("click", () => turnTo(shown.page - 1));
  document.getElementById("on").addEventListener("click", () => turnTo(shown.page + 1));
  function turnTo(page) {
    change({ page }, true);
    document.getElementById("table").scrollIntoView();
  }
  document.getElementById("csv").addEventListener("click", () => {
    const rows = view.shots === "beside" ? shown.rows.flatMap((row) => [...row.beside.values()]) : shown.rows;
    const columns = view.shots === "beside" ? columnsOf(data, { ...view, shots: "" }).filter((column) => ["variant", "shots", "average"].includes(column.id)) : shown.visible;
    save(asCsv(rows, columns, data), "leaderboard-shown.csv", "text/csv");
  });
  document.getElementById("latex").addEventListener("click", () => save(asLatex(shown.rows, shown.visible, data, view), "leaderboard-shown.tex", "application/x-tex"));
  document.querySelector("nav.parts").addEventListener("click", (event) => { // the address keeps the view
    const target = event.target.closest("a") && document.querySelector(event.target.closest("a").hash);
    if (!target) return;
    event.preventDefault();
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  });
  addEventListener("hashchange", () => {
    view = viewOf(location.hash.slice(1), opening, allowed);
    show();
  });
  addEventListener("beforeprint", () => show(true));
  addEventListener("afterprint", () => show());

  columnChooser();
  view = viewOf(location.hash.slice(1), opening, allowed);
  show();
  document.body.classList.add("ready");
  requestAnimationFrame(() => setTimeout(startCharts)); // the table is painted first
}

start();
