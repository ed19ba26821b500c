// A row that is opened: what it is of, a picture of each mask, the documents that flipped, every number in full.

function detailsRow(row, width, data) {
  const place = element("div", { class: "inside" });
  const numbers = data.columns.map((column, at) => [column.name, row.cells[at]?.explained]);
  const left = data.left.map((one) => [`${one.name} left`, [row.left[one.id].text, row.left[one.id].explained].filter(Boolean).join(", ")]);
  place.append(listed([...row.about, ...left]));
  const pictures = element("div", { class: "masks" }), documents = element("div", { class: "documents" });
  place.append(pictures, documents, listed(numbers));
  showMasks(pictures, row.id);
  showDocuments(documents, row.id);
  return element("tr", { class: "details", role: "row" }, element("td", { role: "cell", colspan: width }, place));
}
