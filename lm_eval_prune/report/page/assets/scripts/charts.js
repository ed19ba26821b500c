// Figures, drawn when they come into view. Their library is the largest part of the page, and is unpacked for the first.

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
let library = null;

function loadVega() {
  library ??= inflated("vega").text().then((source) => {
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
  });
  return library;
}

async function draw(place) {
  const [charts] = await Promise.all([unpacked("charts"), loadVega()]);
  const spec = { ...charts.specs[place.dataset.chart], config: dark.matches ? charts.dark : charts.light };
  drawn.get(place)?.finalize();
  const made = await vegaEmbed(place, spec, {
    ast: true, // expressions are interpreted: the page's policy forbids eval
    mode: "vega-lite",
    renderer: "canvas",
    actions: { export: true, source: false, compiled: false, editor: false },
    tooltip: { theme: dark.matches ? "dark" : "light" },
  });
  place.querySelector("summary")?.setAttribute("aria-label", "Save this figure");
  drawn.set(place, made);
  place.classList.add("drawn");
}

function startCharts() {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target).catch((error) => {
        console.error(error);
        entry.target.textContent = `This figure could not be drawn: ${error.message}`;
      });
    }
  }, { rootMargin: "200px" });
  for (const place of document.querySelectorAll("[data-chart]")) seen.observe(place);
  dark.addEventListener("change", () => { for (const place of drawn.keys()) draw(place); });
  addEventListener("beforeprint", () => { for (const place of document.querySelectorAll("[data-chart]:not(.drawn)")) draw(place); });
}
