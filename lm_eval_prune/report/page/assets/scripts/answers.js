// What rows answered, document by document (answers.py), and two rows joined on their documents.

let answerBytes = null;

/** The answers of a run, by place in its group. */
function answersOf(answers, group, run, runsOfGroup) {
  const [, , list, how, start] = run, places = group.lists[list], count = places ? places.length : group.documents;
  let values;
  if (Array.isArray(how)) values = Array.from(answerBytes.subarray(start, start + count), (level) => how[level]);
  else if (how === "numbers") values = Array.from(new Float64Array(answerBytes.slice(start, start + 8 * count).buffer));
  else {
    const bit = (from, at) => (answerBytes[from + (at >> 3)] >> (7 - (at & 7))) & 1;
    const first = how === "bits" ? runsOfGroup.find((other) => other[2] === list && other[3] === "first")[4] : null;
    values = Array.from({ length: count }, (_, at) => bit(start, at) ^ (first === null ? 0 : bit(first, at)));
  }
  return new Map(values.map((value, at) => [places ? places[at] : at, value]));
}

/** For each run of the row with more of them, its partner of the other: of the same seeds, or the only one. */
function partners(many, few) {
  return many.map((run) => {
    const same = few.filter((other) => other[0] === run[0] && other[1] === run[1]), examples = few.filter((other) => other[1] === run[1]);
    return same[0] ?? (examples.length === 1 ? examples[0] : few.length === 1 ? few[0] : null);
  });
}

/** One column of two rows, paired: the part, or why there is none. */
function pairedColumn(answers, column, shots, first, second) {
  const one = answers.rows[first][column], two = answers.rows[second][column], group = answers.groups[`${column} ${shots}`];
  if (!one || !two) return { why: "no answers by document at hand" };
  const swapped = two.length > one.length, [many, few] = swapped ? [two, one] : [one, two], matched = partners(many, few);
  if (matched.includes(null)) return { why: "drawn with other seeds" };
  if (new Set(matched).size < new Set(few).size) return { why: "drawn with other seeds" };
  const all = answers.rows.flatMap((row, place) => (answers.shots[place] === shots ? row[column] ?? [] : []));
  const read = (run) => answersOf(answers, group, run, all), pairs = many.map((run, at) => [read(run), read(matched[at])]);
  const shared = [...pairs[0][0].keys()].filter((document) => pairs.every(([a, b]) => a.has(document) && b.has(document)));
  if (!shared.length) return { why: "other documents or other prompts" };
  const sign = swapped ? -1 : 1, draws = pairs.map(([a, b]) => shared.map((document) => sign * (a.get(document) - b.get(document))));
  const within = (values) => shared.every((document) => values.get(document) >= 0 && values.get(document) <= 1);
  const bounded = answers.columns[column].higher && pairs.every(([a, b]) => within(a) && within(b));
  return { part: pairedPart(draws, many.map((run) => [run[0], run[1]]), unitsOf(group, shared), bounded) };
}

/** Numbers 0, 1, ... of the documents' units; null where each is its own. */
function unitsOf(group, documents) {
  if (!group.units) return null;
  const numbers = new Map(), found = documents.map((document) => {
    const unit = group.units[document];
    if (!numbers.has(unit)) numbers.set(unit, numbers.size);
    return numbers.get(unit);
  });
  return numbers.size < found.length ? found : null;
}

/** The differences of two rows (their places in the table): of the average first, then of each column. */
function compared(answers, shots, first, second) {
  const columns = answers.columns.map((column, place) => ({ ...column, ...pairedColumn(answers, place, shots, first, second) }));
  const averaged = columns.filter((column) => column.averaged), whole = averaged.every((column) => column.part);
  const judged = (parts, higher) => {
    const found = estimate(parts);
    return { ...found, verdict: verdictOf(found, higher, answers.margin) };
  };
  return [
    whole ? judged(averaged.map((column) => [1 / averaged.length, column.part]), averaged[0].higher) : { why: "a task is missing" },
    ...columns.map((column) => (column.part ? judged([[1, column.part]], column.higher) : { why: column.why })),
  ];
}

/** The answers, ready to be compared; null where the page has none. */
async function readAnswers(data) {
  const answers = await unpacked("answers");
  if (!answers) return null;
  answerBytes ??= new Uint8Array(await inflated("answer-bytes").arrayBuffer());
  answers.shots ??= data.rows.map((row) => row.shots);
  return answers;
}
