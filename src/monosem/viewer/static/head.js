// A classic script in the head: before the first paint a chosen theme is there, and all modules are asked for at once,
// where each would wait for those that import it.
"use strict";

try {
  const chosen = localStorage.getItem("monosem-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is refused: the system's theme it is.
}

const MODULES =
  "choices compare contexts dom exported fetching keys latent latent_parts metrics numbers overview " +
  "parts patterns plots prompt reading route scatter search source steer steer_latents text";
for (const name of MODULES.split(" ")) {
  document.head.append(Object.assign(document.createElement("link"), {rel: "modulepreload", href: `${name}.js`}));
}
