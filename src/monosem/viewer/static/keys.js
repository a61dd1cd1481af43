// Keys: which there are, who listens, and the overlay that tells of them.

import { fill, h } from "./dom.js";

const OFF = "monosem-keys-off";
const KEYS = [
  ["/", "search: to the field that finds latents"],
  ["j or →", "next latent; next result of a search"],
  ["k or ←", "previous latent; previous result"],
  ["← → Home End", "inside a context: from one active token to the next"],
  ["Enter", "open what the focus is on"],
  ["Ctrl Enter", "steer"],
  ["Esc", "close this, or a reading"],
  ["?", "these keys"],
];

let handlers = {};
let dialog = null;

/** What the shown page does on keys: `{ j: function, … }`; the page before loses its own. */
export const setPageKeys = (keys) => (handlers = keys ?? {});

function remember(isOff) {
  try {
    if (isOff) localStorage.setItem(OFF, "1");
    else localStorage.removeItem(OFF);
  } catch {
    dialog.dataset.off = isOff ? "1" : ""; // storage is refused: for this visit only
  }
}

function areOff() {
  try {
    return localStorage.getItem(OFF) === "1";
  } catch {
    return dialog.dataset.off === "1";
  }
}

function makeDialog() {
  const rows = KEYS.map(([keys, meaning]) =>
    h(
      "div",
      h(
        "dt",
        keys.split(" ").map((key) => (key === "or" ? " or " : h("kbd", key))),
      ),
      h("dd", meaning),
    ),
  );
  // Whoever dictates or types by a switch can do without single letters that act.
  const off = h("input", { type: "checkbox", onchange: (event) => remember(!event.target.checked) });
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog = h("dialog", { id: "keys", "aria-labelledby": "keys-title" });
  fill(
    dialog,
    h("h2", { id: "keys-title" }, "Keys"),
    h("dl.keys", rows),
    h("label.check", off, " Letters and signs act as keys"),
    h("p", close),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  return off;
}

const isTyping = (element) =>
  element.closest("input:not([type=checkbox], [type=radio], [type=range]), textarea, select") !== null;

/** Listen; `focusSearch` is what "/" does. */
export function startKeys(focusSearch) {
  const off = makeDialog();
  const open = () => {
    off.checked = !areOff();
    dialog.showModal();
  };
  const everywhere = { "/": focusSearch, "?": open };
  document.getElementById("help").addEventListener("click", open);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const isLetter = event.key.length === 1;
    if (isTyping(event.target) || (isLetter && areOff())) return;
    if (!isLetter && event.target.closest("[role=tablist], [role=application], input, dialog")) return;
    const act = handlers[event.key] ?? everywhere[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
