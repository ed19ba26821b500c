// The table, made anew for each view: at most ROWS_A_PAGE rows, whatever the size of the study.

/** The table's head and body for rows in their order; `table.on` are what its buttons call. */
function drawTable(table, { data, view, columns, rows, sort, direction, on }) {
  const shown = columns.filter((column) => column.fixed || !view.hide.includes(column.id));
  table.tHead.replaceChildren(element("tr", { role: "row" }, ...shown.map((column) => head(column, sort, direction, on))));
  const body = table.tBodies[0];
  body.replaceChildren();
  let before = null;
  for (const row of rows) {
    const opened = view.open.includes(row.id) && view.shots !== "beside";
    const line = element("tr", { role: "row", class: [row.dense ? "dense" : "", opened ? "opened" : ""].filter(Boolean).join(" "), "data-id": row.id });
    if (before !== null && view.shots === "" && row.shots !== before) line.classList.add("group");
    before = row.shots;
    line.append(...shown.map((column) => cellOf(column, row, { data, view, on })));
    body.append(line);
    if (opened) body.append(detailsRow(row, shown.length, data));
  }
  if (!rows.length) body.append(element("tr", { role: "row", class: "empty" }, element("td", { role: "cell", colspan: shown.length }, "No row fits these filters")));
  table.tFoot?.remove();
  if (data.chance && view.shots !== "beside" && rows.length) table.append(chanceRow(shown, data));
  return shown;
}

function head(column, sort, direction, on) {
  const sorted = column.id === sort;
  const button = element("button", { type: "button", class: "sort" }, clipped(column.name), element("span", { class: "order", "aria-hidden": "true" }));
  button.addEventListener("click", () => on.sort(column));
  return element("th", {
    scope: "col", role: "columnheader", class: `${column.kind} ${column.id === "average" ? "average" : ""}`, "data-sort": column.id,
    "aria-sort": sorted ? (direction === "desc" ? "descending" : "ascending") : false,
    title: column.explained,
  }, button, column.note && element("small", { class: "note" }, column.note));
}

function cellOf(column, row, { data, view, on }) {
  const cell = column.cell(row);
  const classes = [column.kind, column.id === "average" ? "average" : "", cell.order === null ? "missing" : ""];
  if (cell.verdict) classes.push(cell.verdict.replaceAll(" ", "-"));
  const attributes = { role: "cell", class: classes.filter(Boolean).join(" "), title: cell.explained, "data-name": column.name };
  if (column.id === "rank") return element("td", attributes, picker(row, cell.text, view, on));
  if (column.id === "variant") {
    return element("th", { ...attributes, role: "rowheader", scope: "row" }, view.shots === "beside" ? clipped(cell.text, "name clip") : opener(row, cell.text, view, on));
  }
  const unit = column.kind === "left" && element("span", { class: "unit" }, ` ${column.name}`); // seen on cards alone
  return element("td", attributes, ...valueParts(cell, data, column.id === "average"), unit || null);
}

/** What a cell shows: value, error, difference with its sign (and word, where there is room), p-value. */
function valueParts(cell, data, inWords) {
  const parts = [];
  if (cell.text) parts.push(element("b", {}, cell.text));
  if (cell.below) parts.push(" ", element("small", { class: "below" }, cell.below));
  if (cell.difference || cell.verdict) {
    const word = element("span", { class: inWords ? "word" : "unseen" }, cell.verdict);
    parts.push(element("span", { class: "difference" }, `${cell.difference} `, element("i", { "aria-hidden": "true" }, data.signs[cell.verdict]), " ", word));
  }
  if (cell.p) parts.push(element("small", { class: "p" }, cell.p));
  return parts;
}

function picker(row, rank, view, on) {
  const box = element("input", { type: "checkbox", name: "compare", value: row.id, "aria-label": `Compare ${row.label}` });
  box.checked = view.compare.includes(row.id);
  box.addEventListener("change", () => on.compare(row.id, box.checked));
  return element("label", { class: "pick", title: "Choose two rows to compare them" }, box, element("b", {}, rank));
}

function opener(row, label, view, on) {
  const button = element("button", { type: "button", class: "more", "aria-expanded": String(view.open.includes(row.id)) }, clipped(label, "name clip"));
  button.addEventListener("click", () => on.open(row.id));
  return button;
}

/** A last row with the accuracy of guessing. */
function chanceRow(shown, data) {
  const line = element("tr", { role: "row", class: "chance" });
  for (const column of shown) {
    const own = column.place === undefined ? null : data.chance[column.place];
    if (column.id === "variant") line.append(element("th", { role: "rowheader", scope: "row", class: "text" }, "chance"));
    else line.append(element("td", { role: "cell", class: `${column.kind} ${column.id === "average" ? "average" : ""}`, title: own?.explained, "data-name": column.name },
      own && element("b", {}, own.text), own?.below && element("small", { class: "below" }, own.below)));
  }
  return element("tfoot", {}, line);
}

/** The head stays in sight while the page scrolls: the table's frame scrolls sideways, so that CSS cannot do it. */
function keepHeadInSight(frame, table) {
  const follow = () => {
    const top = frame.getBoundingClientRect().top, most = table.offsetHeight - table.tHead.offsetHeight - 80;
    table.tHead.style.transform = top < 0 && most > 0 ? `translateY(${Math.min(-top, most)}px)` : "";
  };
  addEventListener("scroll", follow, { passive: true });
  addEventListener("resize", follow);
  return follow;
}
