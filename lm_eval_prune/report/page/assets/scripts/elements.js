// Elements by code. Every text comes from files of strangers: it is set as text, never as HTML.

/** An element with attributes (`class`, `title`, ...), then texts and other elements; empty ones are left out. */
function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined && value !== "") made.setAttribute(key, value);
  }
  made.append(...content.filter((part) => part !== null && part !== undefined && part !== ""));
  return made;
}

/** A list of terms and what is said of them; those of which nothing is said are left out. */
function listed(pairs) {
  const list = element("dl");
  for (const [term, text] of pairs) if (text) list.append(element("dt", {}, term), element("dd", {}, text));
  return list;
}

/** A text in at most some lines; whole in its tooltip where it is long. */
function clipped(text, name = "clip") {
  return element("span", { class: name, title: text.length > 60 ? text : "" }, text);
}
