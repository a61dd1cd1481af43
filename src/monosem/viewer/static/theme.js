// A classic script in the head, so that a chosen theme is there before the first paint.
"use strict";

(() => {
  const KEY = "monosem-theme";
  try {
    const chosen = localStorage.getItem(KEY);
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage is refused: the system's theme it is.
  }
})();
