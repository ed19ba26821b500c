// The page's data: JSON, deflated, in base64 (packing.py), each unpacked when it is first needed.

const unpacking = new Map();

function inflated(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(`data-${id}`).textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}

/** The JSON values of a name (the script element `data-NAME`), or null where the page has none. */
function unpacked(id) {
  if (!document.getElementById(`data-${id}`)) return Promise.resolve(null);
  if (!unpacking.has(id)) unpacking.set(id, inflated(id).json());
  return unpacking.get(id);
}
