// The switch between light and dark. Without a choice the system's holds; a choice that agrees with it is forgotten.

const KEY = "monosem-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

/** Drawings that take colours from the style sheet listen for "themechange" on the window. */
function changed(button) {
  button.setAttribute("aria-pressed", String(isDark()));
  dispatchEvent(new Event("themechange"));
}

function choose(dark) {
  const chosen = dark === system.matches ? null : dark ? "dark" : "light";
  if (chosen === null) delete root.dataset.theme;
  else root.dataset.theme = chosen;
  try {
    if (chosen === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, chosen);
  } catch {
    // Storage is refused: the choice holds for this visit.
  }
}

export function startTheme() {
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    choose(!isDark());
    changed(button);
  });
  system.addEventListener("change", () => changed(button));
  changed(button);
}
