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
      background: colour("--card"),
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

  const specs = JSON.parse(byId("specs").textContent);

  async function embedded(element, spec) {
    if (spec.params) spec.params[0].value = metric;
    const options = { mode: "vega-lite", actions: false, renderer: "canvas", config: config() };
    return (await window.vegaEmbed(element, spec, options)).view;
  }

  async function draw() {
    for (const [id, spec] of Object.entries(specs)) {
      views.get(id)?.finalize();
      views.set(id, await embedded(byId(id), spec));
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
      for (const [id, view] of views) if (/^(heat|curves)-/.test(id)) view.signal("metric", metric).runAsync();
    });
  }

  // A saved chart has a title, which says what the page says around it.

  async function save(button) {
    const { save: kind, chart, file } = button.dataset;
    const spec = specs[chart];
    const text = [...spec.usermeta.title, ...(spec.params ? [metric === "miou" ? "mIoU" : "oIoU"] : [])];
    const title = { text, anchor: "start", fontSize: 11, color: config().axis.titleColor };
    const view = await embedded(document.createElement("div"), { ...spec, title });
    const link = document.createElement("a");
    link.href = await view.toImageURL(kind, kind === "png" ? 2 : 1);
    link.download = `${file}.${kind}`;
    link.click();
    view.finalize();
  }

  for (const button of document.querySelectorAll("button[data-save]")) {
    button.addEventListener("click", () => {
      save(button).catch((error) => { document.body.dataset.error = String(error); });
    });
  }

  // Expressions: failures and pictures, filtered and sorted by one form, a page at a time.

  const form = byId("filters");

  class List {
    constructor(id, singular, plural) {
      Object.assign(this, { id, singular, plural, limit: PAGE, opened: null });
      this.box = byId(id);
      this.items = [...this.box.children];
      byId(`${id}-more`).addEventListener("click", () => { this.limit += PAGE; this.show(); });
    }

    show() {
      const wanted = Object.fromEntries(new FormData(form));
      const order = sorted(this.items, wanted.sort);
      const found = order.filter((item) => matches(item.dataset, wanted));
      const shown = new Set(found.slice(0, this.limit));
      if (this.opened) shown.add(this.opened);
      for (const item of order) item.hidden = !shown.has(item);
      this.box.append(...order);
      const part = found.length > this.limit ? `${this.limit} of ` : "";
      byId(`${this.id}-count`).value = `${part}${found.length} ${found.length === 1 ? this.singular : this.plural}`;
      byId(`${this.id}-none`).hidden = found.length > 0;
      byId(`${this.id}-more`).hidden = found.length <= this.limit;
    }
  }

  const lists = [new List("cards", "picture", "pictures")];
  if (byId("failures")) lists.push(new List("failures", "expression", "expressions"));

  function update() {
    for (const list of lists) {
      Object.assign(list, { limit: PAGE, opened: null });
      list.show();
    }
  }

  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());

  // An address that ends in an expression's id shows it, whatever the filters.

  function open() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* not an address of this page */ }
    const element = byId(id);
    for (const list of lists) {
      if (!list.items.includes(element)) continue;
      list.opened = element;
      list.show();
      element.scrollIntoView();
    }
  }

  window.addEventListener("hashchange", open);

  // Pictures are enlarged in a dialog, which the Escape key, its button and a click beside the picture close.

  const dialog = byId("enlarged");
  for (const button of document.querySelectorAll("button.enlarge")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      byId("enlarged-picture").replaceChildren(small.cloneNode());
      byId("enlarged-text").textContent = small.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  update();
  open();
  drawn();
})();
