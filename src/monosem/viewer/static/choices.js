// What the reader has chosen: remembered, where the browser lets us; and the switch between light and dark.

const visit = new Map();

export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return visit.get(key) ?? null;
  }
}

/** Remember a choice; null forgets it. */
export function remember(key, choice) {
  try {
    if (choice === null) localStorage.removeItem(key);
    else localStorage.setItem(key, choice);
  } catch {
    visit.set(key, choice); // storage is refused: for this visit only
  }
}

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
