// The documents that a row and the dense model answer differently: what was asked, and what both answered.

async function showDocuments(place, id) {
  const all = await unpacked("documents");
  if (all?.files?.[id]) {
    const { file, lost, gained } = all.files[id];
    place.append(element("h4", {}, "Documents that flipped"), element("p", {}, `${lost} lost, ${gained} gained: `, element("a", { href: file }, file), ", beside this page"));
  }
  if (!all?.rows?.[id]) return;
  place.append(element("h4", {}, "Documents that flipped"));
  for (const task of all.rows[id]) {
    const held = element("details", {}, element("summary", {}, `${task.column}: ${task.lost} lost, ${task.gained} gained`));
    held.addEventListener("toggle", () => {
      if (task.shown.length < task.lost + task.gained) held.append(element("p", { class: "hint" }, `The first ${task.shown.length}; all of them by leaderboard --flips.`));
      held.append(...task.shown.map((one) => documentOf(one, all.texts[one.text])));
      for (const prompt of held.querySelectorAll("pre")) prompt.scrollTop = prompt.scrollHeight; // the question is its end
    }, { once: true });
    place.append(held);
  }
}

function documentOf(one, asked) {
  const how = one.gained ? "gained" : "lost", seed = one.seed === null ? "" : `, seed ${one.seed}`;
  const made = element("div", { class: `document ${how}` }, element("h5", {}, `Document ${one.document}${seed}: ${how}`));
  if (asked.prompt) made.append(element("pre", { tabindex: 0 }, asked.prompt));
  const count = Math.max(asked.answers.length, one.answers.length);
  if (count) made.append(answersTable(one, asked, count));
  if (asked.right === null && asked.target) made.append(element("p", {}, `Right: ${asked.target}`));
  return made;
}

/** A line a choice: its log-likelihood under both, or what both wrote. The likeliest is bold. */
function answersTable(one, asked, count) {
  const body = element("tbody"), best = (answers) => (typeof answers[0] === "number" ? answers.indexOf(Math.max(...answers)) : -1);
  const cell = (answers, at) => {
    const text = typeof answers[at] === "number" ? answers[at].toFixed(2) : answers[at] ?? "";
    return element("td", { class: typeof answers[at] === "number" ? "right" : "" }, best(answers) === at && count > 1 ? element("b", {}, text) : text);
  };
  for (let at = 0; at < count; at += 1) {
    body.append(element("tr", {}, element("td", {}, asked.choices[at] ?? String(at), at === asked.right ? element("b", {}, " (right)") : null), cell(asked.answers, at), cell(one.answers, at)));
  }
  const numbers = typeof (asked.answers[0] ?? one.answers[0]) === "number", heads = [numbers ? "choice" : "answer", "dense", "this row"];
  return element("div", { class: "scroll" }, element("table", { class: "plain" }, numbers && element("caption", {}, "Log-likelihoods"),
    element("thead", {}, element("tr", {}, ...heads.map((name, at) => element("th", { scope: "col", class: at && numbers ? "right" : "" }, name)))), body));
}
