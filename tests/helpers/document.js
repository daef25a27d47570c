// A stand-in for a browser's document, of what page.js uses, so that its script runs in node. The elements come as JSON
// {tag, attributes, children}; globalThis.state() says what the tests look at.

const camel = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());

class Node {
  constructor(tag, attributes, children) {
    Object.assign(this, { tag, attributes, listeners: {}, children: [], text: "", style: {} });
    for (const child of children) {
      if (typeof child === "string") this.text += child;
      else this.append(new Node(child.tag, child.attributes, child.children));
    }
    this.dataset = {};
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith("data-")) this.dataset[camel(name.slice(5))] = value;
    this.value = attributes.value ?? "";
  }
  append(...nodes) {
    for (const node of nodes) {
      if (node.parent) node.parent.children.splice(node.parent.children.indexOf(node), 1);
      node.parent = this;
      this.children.push(node);
    }
  }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  cloneNode() { return new Node(this.tag, { ...this.attributes }, []); }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(" "); }
  set textContent(text) { this.text = text; this.children = []; }
  get hidden() { return "hidden" in this.attributes; }
  set hidden(on) { if (on) this.attributes.hidden = ""; else delete this.attributes.hidden; }
  get alt() { return this.attributes.alt; }
  get all() { return [this, ...this.children.flatMap((child) => child.all)]; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(kind, act) { (this.listeners[kind] ??= []).push(act); }
  dispatch(kind) { for (const act of this.listeners[kind] ?? []) act({ target: this, preventDefault() {} }); }
  click() { clicked.push(this); this.dispatch("click"); }
  matches(selector) {
    const [, tag, rest] = /^([a-z]*)(.*)$/.exec(selector);
    const named = rest.startsWith("[") ? rest.slice(1, -1) in this.attributes
      : !rest || (this.attributes.class ?? "").split(" ").includes(rest.slice(1));
    return this.tag === tag && named;
  }
  querySelectorAll(selector) { return this.all.filter((node) => node.matches(selector)); }
  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }
  scrollIntoView() { scrolled.push(this.attributes.id); }
  showModal() { this.shown = true; }
  close() { this.shown = false; }
}

const clicked = [], scrolled = [], embedded = [];
const root = new Node("root", {}, [globalThis.tree]);
const body = root.querySelector("body");
const byId = (id) => root.all.find((node) => node.attributes.id === id) ?? null;
globalThis.document = {
  body,
  getElementById: byId,
  querySelectorAll: (selector) => root.querySelectorAll(selector),
  createElement: (tag) => new Node(tag, {}, []),
};
const events = new Node("window", {}, []);
globalThis.window = {
  addEventListener: (kind, act) => events.addEventListener(kind, act),
  async vegaEmbed(element, spec) {
    embedded.push({ element: element.attributes.id ?? "", spec: structuredClone(spec) });
    const signal = (name, value) => { embedded.at(-1)[name] = value; return { runAsync() {} }; };
    return { view: { signal, finalize() {}, async toImageURL(kind, scale) { return `data:${kind},${scale}`; } } };
  },
};
globalThis.location = { hash: globalThis.address ?? "" };
globalThis.getComputedStyle = () => ({ fontFamily: "serif", getPropertyValue: (name) => ` colour of ${name}` });
globalThis.matchMedia = () => ({ addEventListener() {} });
globalThis.FormData = class {
  constructor(form) { this.form = form; }
  *[Symbol.iterator]() {
    for (const node of this.form.all) if (node.attributes.name) yield [node.attributes.name, node.value];
  }
};
globalThis.act = {
  byId, root,
  fill(values) {
    for (const node of byId("filters").all) if (node.attributes.name in values) node.value = values[node.attributes.name];
    byId("filters").dispatch("input");
  },
  go(hash) { globalThis.location.hash = hash; events.dispatch("hashchange"); },
};
const shown = (id) => byId(id)?.children.filter((node) => !node.hidden).map((node) => Number(node.dataset.expression));
globalThis.state = () => ({
  cards: shown("cards"), failures: shown("failures"), scrolled, embedded,
  count: byId("cards-count").value, nothing: !byId("cards-none").hidden, body: body.dataset,
  links: clicked.filter((node) => node.tag === "a").map(({ href, download }) => ({ href, download })),
  enlarged: byId("enlarged").shown ? byId("enlarged").querySelectorAll("img").map((node) => node.attributes) : null,
  caption: byId("enlarged-text").textContent,
});
