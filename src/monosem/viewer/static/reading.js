// The small reading beside whatever the pointer or the focus is on: exact values, told where they are.

import {fill} from "./dom.js";

const HIDE_AFTER = 120;
const told = new WeakMap();
let bubble = null;
let owner = null;
let timer = 0;

/** Tell this of an element: `tell` gives nodes or text when they are wanted. */
export function withReading(element, tell) {
  told.set(element, tell);
  element.setAttribute("data-reading", "");
  element.setAttribute("aria-describedby", "reading");
  return element;
}

/** Show a reading at a rectangle of the window. */
export function showReading(rectangle, ...content) {
  clearTimeout(timer);
  fill(bubble, ...content).hidden = false;
  const {width, height} = bubble.getBoundingClientRect();
  const left = Math.min(Math.max(6, rectangle.left + rectangle.width / 2 - width / 2), innerWidth - width - 6);
  // Above, so that what follows in the text stays free; below where there is no room.
  const above = rectangle.top - height - 5;
  bubble.style.left = `${left}px`;
  bubble.style.top = `${above < 4 ? rectangle.bottom + 5 : above}px`;
}

export function hideReading() {
  clearTimeout(timer);
  owner = null;
  bubble.hidden = true;
}

function show(element) {
  owner = element;
  // An element that wraps has several rectangles: its first is where reading it begins.
  showReading(element.getClientRects()[0] ?? element.getBoundingClientRect(), told.get(element)());
}

const under = event => {
  const element = event.target.closest?.("[data-reading]");
  return element && told.has(element) ? element : null;
};

/** Listen for pointer, focus and Escape; once. */
export function startReadings() {
  bubble = document.getElementById("reading");
  const enter = event => {
    const element = under(event);
    if (element) show(element);
  };
  // The reading stays while the pointer is on it, so that it can be read and copied.
  const leave = event => {
    if (!under(event) && event.target !== bubble) return;
    clearTimeout(timer);
    timer = setTimeout(hideReading, HIDE_AFTER);
  };
  document.addEventListener("pointerover", enter);
  document.addEventListener("pointerout", leave);
  document.addEventListener("focusin", enter);
  document.addEventListener("focusout", leave);
  bubble.addEventListener("pointerover", () => clearTimeout(timer));
  bubble.addEventListener("pointerout", leave);
  // What it told of may be gone by what was pressed.
  const check = () => requestAnimationFrame(() => owner && !owner.isConnected && hideReading());
  addEventListener("click", check);
  addEventListener("keydown", check);
  addEventListener("scroll", () => owner && hideReading(), {passive: true, capture: true});
  addEventListener("keydown", event => event.key === "Escape" && !bubble.hidden && hideReading());
}
