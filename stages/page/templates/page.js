(() => {
  "use strict";
  const PAGE = 24;
  const byId = (id) => document.getElementById(id);
  const views = new Map();
  let metric = "miou";

  // Charts: drawn with the colours of the theme, again when the theme changes.

  function config() {
    const style = getComputedStyle(document.body);
    const colour = (name) => style.getPropertyValue(name).trim();
    const text = { labelColor: colour("--muted"), titleColor: colour("--muted"), titleFontWeight: 500 };
    return {
      background: "transparent",
      font: style.fontFamily,
      view: { stroke: null },
      axis: { ...text, gridColor: colour("--line"), domainColor: colour("--line"), tickColor: colour("--line"), tickCount: 5 },
      legend: text,
      style: {
        main: { color: colour("--ours"), strokeWidth: 2.5 },
        rival: { color: colour("--cropping"), strokeWidth: 1.8, strokeDash: [5, 3] },
        upper_bound: { color: colour("--bound"), line: false },
      },
    };
  }

  async function draw() {
    const specs = JSON.parse(byId("specs").textContent);
    for (const [id, spec] of Object.entries(specs)) {
      views.get(id)?.finalize();
      if (id.startsWith("heat-")) spec.params[0].value = metric;
      const options = { mode: "vega-lite", actions: false, renderer: "canvas", config: config() };
      const result = await window.vegaEmbed(byId(id), spec, options);
      views.set(id, result.view);
    }
    document.body.dataset.ready = String(views.size);
  }

  const drawn = () => draw().catch((error) => { document.body.dataset.error = String(error); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawn);

  for (const button of document.querySelectorAll("button[data-metric]")) {
    button.addEventListener("click", () => {
      metric = button.dataset.metric;
      for (const other of document.querySelectorAll("button[data-metric]"))
        other.setAttribute("aria-pressed", String(other === button));
      for (const line of document.querySelectorAll("p[data-metric]")) line.hidden = line.dataset.metric !== metric;
      for (const [id, view] of views) if (id.startsWith("heat-")) view.signal("metric", metric).runAsync();
    });
  }

  // Pictures: filtered by the form, a page at a time.

  const form = byId("filters");
  const cards = [...byId("cards").children];
  const more = byId("more");
  let limit = PAGE;

  function filter() {
    const { dataset, split, kind, text } = Object.fromEntries(new FormData(form));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = cards.filter(({ dataset: card }) =>
      (!dataset || card.dataset === dataset) && (!split || card.split === split) &&
      (!kind || card.kinds.split(" ").includes(kind)) &&
      words.every((word) => card.text.toLowerCase().includes(word)));
    const shown = new Set(matches.slice(0, limit));
    for (const card of cards) card.hidden = !shown.has(card);
    form.elements.count.value = matches.length === 1 ? "1 picture" : `${matches.length} pictures`;
    byId("nothing").hidden = matches.length > 0;
    more.hidden = matches.length <= limit;
  }

  form.addEventListener("input", () => { limit = PAGE; filter(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += PAGE; filter(); });
  filter();
  drawn();
})();
