// What is looked at, as the page's address keeps it: only what differs from how the page opens.

const LISTS = ["hide", "compare", "open"];

/** The address's fragment for a view. */
function fragmentOf(view, opening) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(view)) {
    if (LISTS.includes(name)) for (const one of value) said.append(name, one);
    else if (String(value) !== String(opening[name])) said.set(name, String(value));
  }
  return said.toString();
}

/** The view that a fragment names; what it does not name, or names wrongly, is as the page opens. */
function viewOf(fragment, opening, allowed) {
  const said = new URLSearchParams(fragment), view = structuredClone(opening);
  for (const name of Object.keys(opening)) {
    if (LISTS.includes(name)) view[name] = said.getAll(name).filter((one) => allowed[name](one));
    else if (said.has(name)) {
      const value = typeof opening[name] === "boolean" ? said.get(name) === "true" : said.get(name);
      if (!allowed[name] || allowed[name](value)) view[name] = name === "page" ? Number(value) : value;
    }
  }
  view.compare = view.compare.slice(0, 2);
  return view;
}
