// Pictures of masks: layers down, heads across, the FFN as a column of its own. What is pruned is dark.

/** "0, 2-4" -> [0, 2, 3, 4]. */
function numbersOf(text) {
  return text.split(", ").filter(Boolean).flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, place) => first + place);
  });
}

/** What a mask's text says that is pruned: [layer, head] pairs and layers of FFNs. */
function prunedIn(text) {
  const heads = [], ffns = [];
  for (const part of text.split("; ")) {
    if (part.startsWith("FFNs ")) ffns.push(...numbersOf(part.slice(5)));
    else if (part.startsWith("heads ")) {
      for (const layer of part.slice(6).split(" | ")) {
        const [number, own] = layer.split(": ");
        for (const head of numbersOf(own ?? "")) heads.push([Number(number), head]);
      }
    }
  }
  return { heads, ffns };
}

/** The picture of a mask, large enough to be seen and small enough for many beside each other. */
function maskPicture(text, layers, heads) {
  const side = Math.max(2, Math.min(12, Math.floor(168 / Math.max(layers, heads)))), gap = side > 4 ? 1 : 0;
  const scale = Math.ceil(devicePixelRatio || 1), picture = element("canvas", { role: "img" });
  const width = (heads + 2) * side, height = layers * side;
  Object.assign(picture, { width: width * scale, height: height * scale });
  Object.assign(picture.style, { width: `${width}px`, height: `${height}px` });
  const draw = picture.getContext("2d"), colours = getComputedStyle(document.documentElement);
  draw.scale(scale, scale);
  const square = (layer, column, pruned) => {
    draw.fillStyle = colours.getPropertyValue(pruned ? "--pruned" : "--kept");
    draw.fillRect(column * side, layer * side, side - gap, side - gap);
  };
  const pruned = prunedIn(text), gone = new Set(pruned.heads.map(([layer, head]) => layer * heads + head)), ffns = new Set(pruned.ffns);
  for (let layer = 0; layer < layers; layer += 1) {
    for (let head = 0; head < heads; head += 1) square(layer, head, gone.has(layer * heads + head));
    square(layer, heads + 1, ffns.has(layer));
  }
  picture.setAttribute("aria-label", `${gone.size} of ${layers * heads} heads and ${ffns.size} of ${layers} FFNs pruned: ${text.slice(0, 300)}`);
  return picture;
}

/** The masks of a row, each with what it was used for and, on demand, as text. */
async function showMasks(place, id) {
  const all = await unpacked("masks"), own = all?.rows[id];
  if (!own) return;
  place.append(element("h4", {}, own.length === 1 ? "Mask" : "Masks"),
    element("p", { class: "hint" }, "A row a layer (the first on top), a column a head, the last column the FFN; dark is pruned."));
  const list = element("div", { class: "pictures" });
  for (const [where, parts, layers, heads] of own) {
    const text = parts.map((part) => all.parts[part]).join("; ");
    list.append(element("figure", { class: "mask" }, layers && heads && maskPicture(text, layers, heads),
      element("figcaption", {}, clipped(where), element("details", {}, element("summary", {}, "as text"), element("p", { class: "listing" }, text)))));
  }
  place.append(list);
}
