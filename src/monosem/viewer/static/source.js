// Where records come from: a running viewer's API, or the files that it exported. Both have the same methods.

import {exportedSource} from "./exported.js";
import {fetchJson, remembering, unlessAborted} from "./fetching.js";
import {queryOf} from "./route.js";

const post = (path, body, signal) =>
  fetchJson(path, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(body),
    signal,
  });

function liveSource() {
  const run = remembering(() => fetchJson("api/run"));
  const scatter = remembering(() => fetchJson("api/scatter"));
  const latent = remembering(number => fetchJson(`api/latents/${number}`));
  return {
    isStatic: false,
    run: () => run("run"),
    scatter: signal => unlessAborted(scatter("scatter"), signal),
    latent: (number, signal) => unlessAborted(latent(number), signal),
    label: async (number, signal) => (await unlessAborted(latent(number), signal)).label,
    search: (wanted, {signal} = {}) => fetchJson(`api/search?${queryOf(wanted)}`, {signal}),
    prompt: (text, signal) => post("api/prompt", {text}, signal),
    steer: (request, signal) => post("api/steer", request, signal),
    compare: (wanted, {signal} = {}) => fetchJson(`api/compare?${queryOf(wanted)}`, {signal}),
  };
}

/** The source that the page was served with. */
export function openSource() {
  const kind = document.querySelector('meta[name="monosem-source"]')?.content;
  return kind === "static" ? exportedSource() : liveSource();
}
