// What is shown as a file: CSV with the numbers of leaderboard.csv, by the same names; LaTeX as it stands on the page.

/** The keys of leaderboard.csv that a column shows: those that begin with its name, and with no longer one's. */
function keysOf(column, data) {
  const fixed = { rank: ["rank"], variant: ["variant", "model"], shots: ["num_fewshot"], parameters: ["parameters", "parameters_left"], flops: ["flops_left"], heads: ["prune_heads"], ffns: ["prune_ffns"], n: [] };
  if (column.place === undefined) return fixed[column.id] ?? [];
  const within = (key, name) => key === name || key.startsWith(`${name} `);
  return data.keys.filter((key) => within(key, column.name)
    && !data.columns.some((other) => other.name.length > column.name.length && within(other.name, column.name) && within(key, other.name)));
}

function quoted(value) {
  const text = value === null ? "" : value === true ? "True" : value === false ? "False" : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows and columns as CSV; `rows` may be those of several numbers of shots, which then are named. */
function asCsv(rows, columns, data) {
  const keys = [...new Set(["variant", "num_fewshot", ...columns.flatMap((column) => keysOf(column, data))])].filter((key) => data.keys.includes(key));
  const places = keys.map((key) => data.keys.indexOf(key));
  const lines = rows.map((row) => places.map((place) => quoted(data.records[row.place][place])).join(","));
  return [keys.map(quoted).join(","), ...lines].join("\n") + "\n";
}

/** As `text.py`'s latex_text; `signs`: character -> what LaTeX sets it by. */
function latexText(text, signs) {
  const line = String(text).replace(/(?<![^\s[(])-(?=\d)/g, "\u2212");
  return line.split(/(?<=-)(?=-)/).map((part) => Array.from(part, (sign) => signs[sign] ?? sign).join("")).join("{}");
}

/** The table for a paper: needs booktabs and, for the verdicts' signs, amssymb. */
function asLatex(rows, columns, data, view) {
  const latex = (text) => latexText(text, data.latex);
  const cellText = (cell) => {
    if (cell.order === null && !cell.difference) return cell.text === "missing" ? "--" : latex(cell.text);
    const difference = view.differences && cell.difference ? ` (${latex(cell.difference)}${cell.verdict ? ` ${latex(data.signs[cell.verdict])}` : ""})` : "";
    return latex([cell.text, cell.below].filter(Boolean).join(" ")) + difference + (view.p && cell.p ? ` ${latex(cell.p)}` : "");
  };
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  return [
    "% needs \\usepackage{booktabs,amssymb}",
    `\\begin{tabular}{${columns.map((column) => (column.kind === "text" ? "l" : "r")).join("")}}`,
    "\\toprule", line(columns.map((column) => latex(column.name))), "\\midrule",
    ...rows.map((row) => line(columns.map((column) => cellText(column.cell(row))))),
    "\\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}

function save(text, name, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
