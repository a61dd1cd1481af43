// The switch between light and dark. Without a choice the system's holds; a choice that agrees with it is forgotten.

import {remember} from "./storage.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

function choose(dark) {
  const chosen = dark === system.matches ? null : dark ? "dark" : "light";
  if (chosen === null) delete root.dataset.theme;
  else root.dataset.theme = chosen;
  remember("monosem-theme", chosen); // which head.js reads
}

export function startTheme() {
  const button = document.getElementById("theme");
  // Drawings that take colours from the style sheet listen for "themechange" on the window.
  const changed = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    choose(!isDark());
    changed();
  });
  system.addEventListener("change", changed);
  changed();
}
