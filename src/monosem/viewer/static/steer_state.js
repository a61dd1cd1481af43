// What is steered, as it stands in the address: #/steer?text=…&latents=123:add:4,7:ablate&keep=0&samples=5

import { numberParam, replaceAddress } from "./route.js";
import { HOWS } from "./steer_latents.js";

/** How continuations are sampled. */
export const SAMPLING = {
  length: { label: "Tokens", usual: 30, min: 1, max: 200, step: 1 },
  samples: { label: "Samples", usual: 3, min: 1, max: 8, step: 1 },
  temperature: { label: "Temperature", usual: 1, min: 0.1, max: 3, step: 0.1 },
  seed: { label: "Seed", usual: 0, min: 0, max: 999999, step: 1 },
};

const ENTRY = /^(\d{1,9}):(add|clamp|ablate|scale)(?::(-?\d{1,4}(?:\.\d{1,4})?))?$/;

/** "123:add:4,7:ablate" → `[{ latent, how, multiple }, …]`, each latent once; what cannot be read is left out. */
function readLatents(text, total) {
  const found = new Map();
  for (const part of text.split(",")) {
    const [, number, how, multiple] = ENTRY.exec(part.trim()) ?? [];
    const latent = Number(number);
    if (latent < total)
      found.set(latent, { latent, how, multiple: multiple === undefined ? HOWS[how].usual : Number(multiple) });
  }
  return [...found.values()];
}

const tellLatent = ({ latent, how, multiple }) =>
  how === "ablate" ? `${latent}:${how}` : `${latent}:${how}:${multiple}`;

export function readState(params, total) {
  const numbers = Object.entries(SAMPLING).map(([name, { usual, min, max }]) => [
    name,
    Math.min(max, Math.max(min, numberParam(params, name, usual))),
  ]);
  const latents = readLatents(params.get("latents") ?? "", total);
  return { text: params.get("text") ?? "", latents, keep: params.get("keep") !== "0", ...Object.fromEntries(numbers) };
}

export function writeState(state) {
  const numbers = Object.entries(SAMPLING).map(([name, { usual }]) => [
    name,
    state[name] === usual ? null : state[name],
  ]);
  const latents = state.latents.map(tellLatent).join(",");
  replaceAddress("steer", null, {
    text: state.text,
    latents,
    keep: state.keep ? null : 0,
    ...Object.fromEntries(numbers),
  });
}
