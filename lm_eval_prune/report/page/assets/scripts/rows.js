// Which rows are shown and in what order: filtered and sorted as the command does it.

const ROWS_A_PAGE = 40;

/** The columns of a view: each has an id, a name, and the cell (what it shows, what it is sorted by) of a row. */
function columnsOf(data, view) {
  const beside = view.shots === "beside";
  const columns = [];
  if (!beside) columns.push({ id: "rank", name: "rank", first: "asc", kind: "rank", cell: (row) => ({ order: row.rank, text: row.rank === null ? "–" : String(row.rank) }) });
  columns.push({ id: "variant", name: "variant", first: "asc", kind: "text", fixed: true, cell: (row) => ({ order: row.label, text: row.label }) });
  if (beside) {
    data.shots.forEach((shots) => columns.push({
      id: `shots ${shots.id}`, name: `${data.columns[0].name}, ${shots.name}`, first: data.columns[0].first, kind: "value",
      cell: (row) => row.beside.get(shots.id)?.cells[0] ?? missing,
    }));
    return columns;
  }
  if (view.shots === "") columns.push({ id: "shots", name: "shots", first: "asc", kind: "shots", cell: (row) => ({ order: row.shots, text: shotsName(data, row.shots) }) });
  columns.push(valueColumn(data, 0));
  for (const left of data.left.filter((one) => view.left === "all" || view.left === one.id)) {
    columns.push({
      id: left.id, name: `${left.name} left`, first: ["heads", "ffns"].includes(left.id) ? "desc" : "asc", kind: "left",
      cell: (row) => row.left[left.id],
    });
  }
  columns.push({ id: "n", name: "n", explained: "Documents, of all tasks together", first: "desc", kind: "count", cell: (row) => ({ order: row.n, text: row.n === null ? "" : row.n.toLocaleString("en") }) });
  for (let place = 1; place < data.columns.length; place += 1) columns.push(valueColumn(data, place));
  return columns;
}
const missing = { order: null, text: "missing" };

function valueColumn(data, place) {
  const { id, name, first, note } = data.columns[place];
  return { id, name, first, note, kind: "value", place, cell: (row) => row.cells[place] };
}

function shotsName(data, shots) {
  return data.shots.find((one) => one.id === shots)?.name ?? "";
}

/** The rows that a view asks for; with the numbers of shots side by side, one a variant. */
function rowsOf(data, view) {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => words.every((word) => row.search.includes(word))
    && (!view.ranking || row.ranking === view.ranking)
    && (!view.model || row.model === view.model);
  if (view.shots !== "beside") return data.rows.filter((row) => fits(row) && (view.shots === "" || String(row.shots) === view.shots));
  const found = new Map();
  for (const row of data.rows) {
    if (!found.has(row.label)) found.set(row.label, { ...row, search: "", beside: new Map() });
    found.get(row.label).beside.set(row.shots, row);
    found.get(row.label).search += ` ${row.search}`;
  }
  return [...found.values()].filter(fits);
}

/** Sorted within each number of shots: missing values last, equal ones in order of rank, whatever the direction. */
function sorted(rows, column, direction, beside) {
  const sign = direction === "desc" ? -1 : 1, group = (row) => (beside ? 0 : Math.max(row.shots, 0));
  const keyed = rows.map((row, place) => ({ row, place, group: group(row), value: column.cell(row).order }));
  keyed.sort((a, b) => a.group - b.group || (a.value === null) - (b.value === null)
    || (a.value === null ? 0 : sign * ((a.value > b.value) - (a.value < b.value))) || a.place - b.place);
  return keyed.map((one) => one.row);
}
