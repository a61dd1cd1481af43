// Making elements. Text becomes text nodes and nothing else; no markup is ever read from a string.

const SVG = "http://www.w3.org/2000/svg";
// Set as properties: as attributes these would only be their first values.
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "htmlFor", "open"]);

function set(element, name, value) {
  if (value === null || value === undefined) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "vars") {
    for (const [key, each] of Object.entries(value)) element.style.setProperty(`--${key}`, each);
  } else if (PROPERTIES.has(name)) element[name] = value;
  else if (value === true) element.setAttribute(name, "");
  else if (value !== false || name.startsWith("aria-")) element.setAttribute(name, value);
}

function build(element, classes, [first, ...others]) {
  const hasAttributes = first?.constructor === Object;
  if (element.localName === "button") element.type = "button"; // unless it says otherwise
  if (classes.length > 0) element.setAttribute("class", classes.join(" "));
  if (hasAttributes) for (const [name, value] of Object.entries(first)) set(element, name, value);
  append(element, hasAttributes ? others : [first, ...others]);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An HTML element: `h("p.note", { onclick: f, vars: { share: 0.5 } }, "text", node, [more])`. */
export function h(kind, ...content) {
  const [tag, ...classes] = kind.split(".");
  return build(document.createElement(tag), classes, content);
}

export function svg(kind, ...content) {
  const [tag, ...classes] = kind.split(".");
  return build(document.createElementNS(SVG, tag), classes, content);
}

/** Put these in the place of all that an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** A function that runs once nothing has called it for a while. */
export function debounced(run, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), milliseconds);
  };
}
