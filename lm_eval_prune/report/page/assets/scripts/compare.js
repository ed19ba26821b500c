// Two rows, chosen by their boxes, compared with each other: the first minus the second.

const shownDigits = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;
const shownP = (p) => (p < 0.001 ? "p < 0.001" : `p ${p.toFixed(3)}`);

const PAIRED = "Paired by document, as differences to the dense model are. p-values are not corrected for how many pairs of rows are looked at.";
const UNPAIRED = "This page holds no answers by document (none were logged, or they are too many for it): two rows cannot be paired, and their difference has no interval and no verdict.";

async function showComparison(place, chosen, data, on) {
  place.hidden = chosen.length === 0;
  place.dataset.rows = chosen.join(" ");
  if (!chosen.length) return place.replaceChildren();
  const rows = chosen.map((id) => data.rows.find((row) => row.id === id));
  const end = element("button", { type: "button", id: "end-comparison" }, "End");
  end.addEventListener("click", on.endComparison);
  if (rows.length < 2) {
    return place.replaceChildren(element("div", { class: "bar" }, element("p", {}, element("b", {}, nameOf(rows[0], data)), " is chosen: choose a second row to compare it with."), end));
  }
  const made = await comparisonOf(rows, data);
  if (place.dataset.rows !== chosen.join(" ")) return undefined; // others were chosen meanwhile
  return place.replaceChildren(element("div", { class: "bar" }, element("h3", {}, `${nameOf(rows[0], data)} minus ${nameOf(rows[1], data)}`), end), ...made);
}

function nameOf(row, data) {
  return data.shots.length > 1 ? `${row.label}, ${shotsName(data, row.shots)}` : row.label;
}

async function comparisonOf(rows, data) {
  if (rows[0].shots !== rows[1].shots) return [element("p", {}, "Rows of one number of shots can be compared: other examples are other prompts.")];
  const answers = await readAnswers(data);
  const found = answers ? compared(answers, rows[0].shots, rows[0].place, rows[1].place) : data.columns.map(() => ({ unpaired: true }));
  const table = element("table", { class: "plain", id: "compared" }, element("thead", {}, element("tr", {},
    ...["", "first", "second", "difference", "95 % interval", "p", "n", "verdict"].map((name) => element("th", { scope: "col", class: name && name !== "verdict" ? "right" : "" }, name)))));
  const body = element("tbody");
  data.columns.forEach((column, at) => body.append(comparedLine(column, rows, found[at], at, data)));
  table.append(body);
  return [
    element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "The two rows compared" }, table),
    element("p", { class: "hint" }, answers ? PAIRED : UNPAIRED),
  ];
}

function comparedLine(column, rows, found, at, data) {
  const right = (text) => element("td", { class: "right" }, text), line = element("tr", { "data-column": column.id }, element("th", { scope: "row" }, column.name));
  line.append(...rows.map((row) => right(row.cells[at].text)));
  const orders = rows.map((row) => row.cells[at].order);
  if (found.unpaired) line.append(right(orders.includes(null) ? "" : shownDigits(orders[0] - orders[1])), element("td", { colspan: 4 }, "not paired"));
  else if (found.why) line.append(element("td", { colspan: 5 }, `not compared: ${found.why}`));
  else {
    line.append(right(shownDigits(found.value)), right(`[${shownDigits(found.low)}, ${shownDigits(found.high)}]`), right(shownP(found.p)),
      right(found.documents.toLocaleString("en")), element("td", { class: found.verdict.replaceAll(" ", "-") }, element("span", { class: "difference" }, `${data.signs[found.verdict]} ${found.verdict}`)));
    line.dataset.numbers = JSON.stringify([found.value, found.low, found.high, found.p, found.least]);
  }
  return line;
}
