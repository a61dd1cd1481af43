// Keys: which there are, who listens, and the overlay that tells of them.

import {h} from "./dom.js";
import {recall, remember} from "./choices.js";

const OFF = "monosem-keys-off";
const KEYS = [
  [["/"], "to the field that finds latents"],
  [["j", "→"], "next latent; next result of a search"],
  [["k", "←"], "previous latent; previous result"],
  [["←", "→", "Home", "End"], "inside a context: to its other active tokens"],
  [["Ctrl Enter"], "steer"],
  [["Esc"], "close this, or a reading"],
  [["?"], "these keys"],
];

let handlers = {};

/** What the shown page does on keys: `{ j: function, … }`; the page before loses its own. */
export const setPageKeys = keys => (handlers = keys ?? {});

const areOff = () => recall(OFF) !== null;

function keyRow([keys, meaning]) {
  const shown = keys.map(key => h("kbd", key));
  return h("div", h("dt", shown), h("dd", meaning));
}

function makeDialog() {
  // Whoever dictates or types by a switch can do without single letters that act.
  const act = h("input", {type: "checkbox", onchange: ({target}) => remember(OFF, target.checked ? null : "1")});
  const close = h("button", {onclick: () => dialog.close()}, "Close");
  const dialog = h("dialog", {"aria-labelledby": "keys-title"});
  dialog.append(
    h("h2", {id: "keys-title"}, "Keys"),
    h("dl.keys", KEYS.map(keyRow)),
    h("label.check", act, " Letters and signs act as keys"),
    h("p", close),
  );
  dialog.addEventListener("click", ({target}) => target === dialog && dialog.close());
  document.body.append(dialog);
  const open = () => {
    act.checked = !areOff();
    dialog.showModal();
  };
  return {dialog, open};
}

const TYPING = "input:not([type=checkbox], [type=range]), textarea, select";
// What has arrows of its own.
const MOVING = "[role=tablist], [role=application], input";

/** Listen; `focusSearch` is what "/" does. */
export function startKeys(focusSearch) {
  const {dialog, open} = makeDialog();
  const everywhere = {"/": focusSearch, "?": open};
  document.getElementById("help").addEventListener("click", open);
  document.addEventListener("keydown", event => {
    const {key, target} = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    if (target.closest(TYPING) || (key.length === 1 ? areOff() : target.closest(MOVING))) return;
    const act = handlers[key] ?? everywhere[key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
