// Which expressions a list shows, and in which order: functions of an element's data-* values and of the form's.

function matches(facts, wanted) {
  const equal = (name) => !wanted[name] || facts[name] === wanted[name];
  const has = (name) => {
    const words = (facts[name] || "").split("|").filter(Boolean);
    if (!wanted[name]) return true;
    if (wanted[name] === "+") return words.length > 0;
    return wanted[name] === "-" ? words.length === 0 : words.includes(wanted[name]);
  };
  // A bound holds back what has no such measurement.
  const atMost = (name) => !wanted[name] || (name in facts && Number(facts[name]) <= Number(wanted[name]));
  const atLeast = (name) => !wanted[name] || (name in facts && Number(facts[name]) >= Number(wanted[name]));
  const kind = !wanted.kind || !("kinds" in facts) || facts.kinds.split(" ").includes(wanted.kind);
  const text = facts.text.toLowerCase();
  const words = (wanted.text || "").toLowerCase().split(/\s+/).filter(Boolean);
  return ["dataset", "split", "category", "length"].every(equal) && kind && has("position") && has("relation") &&
    atMost("iou") && atLeast("regret") && atMost("margin") && words.every((word) => text.includes(word));
}

// `order` is "<name>" for ascending or "-<name>" for descending numbers; what has no such number comes last. Equals, and
// all elements for an empty order, stay as they were.
function sorted(elements, order) {
  if (!order) return [...elements];
  const sign = order.startsWith("-") ? -1 : 1;
  const name = order.replace(/^-/, "");
  const has = (element) => name in element.dataset;
  const compare = (a, b) => has(a) && has(b)
    ? sign * (Number(a.dataset[name]) - Number(b.dataset[name])) : Number(has(b)) - Number(has(a));
  return [...elements].sort(compare);
}
