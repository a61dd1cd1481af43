// Steering: latents added, clamped, ablated or scaled while the subject model reads on, and what that changes.

import { fill, h } from "./dom.js";
import { lastOnly, nothing, wrong } from "./parts.js";
import { unavailable } from "./prompt.js";
import { HOWS, latentPicker, steeredRow } from "./steer_latents.js";
import { outcome } from "./steer_outcome.js";
import { readState, SAMPLING, writeState } from "./steer_state.js";

/** Strengths go out in the latent's own units: a multiple of its largest seen activation, but for a factor. */
function request({ latents, keep, ...others }, largest) {
  const strength = ({ latent, how, multiple }) => {
    if (how === "ablate") return 0;
    return HOWS[how].isFactor ? multiple : multiple * (largest.get(latent) ?? 1);
  };
  const told = latents.map((each) => ({ latent: each.latent, how: each.how, strength: strength(each) }));
  return { ...others, latents: told, keep_error: keep };
}

function settings(state, changed) {
  const numbers = Object.entries(SAMPLING).map(([name, { label, usual, ...limits }]) => {
    const type = ({ target }) => {
      if (target.value === "" || !target.validity.valid) return;
      state[name] = Number(target.value);
      changed();
    };
    const input = h("input", { type: "number", ...limits, value: state[name], oninput: type });
    return h("label", h("span.field-name", label), input);
  });
  const check = ({ target }) => {
    state.keep = target.checked;
    changed();
  };
  const keep = h("input", { type: "checkbox", checked: state.keep, onchange: check });
  const about = h("span.soft", "so that only the latents’ own contribution changes");
  return h("div.settings", numbers, h("label.check", keep, h("span", "Keep the reconstruction’s error", about)));
}

/** The chosen latents, each with its slider. */
function chosenLatents(state, largest, context, changed) {
  const list = h("ul.steered");
  const draw = () => {
    const rows = state.latents.map((each) => {
      const remove = () => {
        state.latents = state.latents.filter((other) => other !== each);
        changed();
        draw();
        document.getElementById("steer-find").focus();
      };
      return steeredRow(each, { ...context, largest, changed, remove });
    });
    fill(list, rows.length ? rows : h("li", nothing("No latent is chosen yet.")));
  };
  const add = (latent) => {
    if (!state.latents.some((each) => each.latent === latent))
      state.latents.push({ latent, how: "add", multiple: HOWS.add.usual });
    changed();
    draw();
  };
  draw();
  return { list, add };
}

/** Sends what is set, and draws what comes back. */
function sender(state, largest, { source, signal, announce }, results, status) {
  const only = lastOnly(signal);
  return async () => {
    if (state.text === "" || state.latents.length === 0) {
      fill(status, state.text === "" ? "Type a text first." : "Choose a latent first.");
      return;
    }
    fill(status, "Steering…");
    results.setAttribute("aria-busy", "true");
    const done = await only((own) => source.steer(request(state, largest), own));
    if (done === null) return;
    results.removeAttribute("aria-busy");
    fill(status, done.error && wrong(done.error));
    announce(done.error ? done.error.message : "Steered: next tokens and continuations follow.");
    if (done.error) return;
    fill(results, outcome(done.result));
    results.classList.remove("stale");
  };
}

function formOf(state, parts, changed, run) {
  const type = ({ target }) => {
    state.text = target.value;
    changed();
  };
  const submit = (event) => {
    event.preventDefault();
    run();
  };
  const field = h("textarea", {
    id: "steer-text",
    rows: 2,
    spellcheck: "false",
    value: state.text,
    placeholder: "The text that the model continues",
    oninput: type,
  });
  return h(
    "form.steer-form",
    { onsubmit: submit, onkeydown: (event) => event.key === "Enter" && event.ctrlKey && submit(event) },
    h("label.field-name", { htmlFor: "steer-text" }, "Text"),
    field,
    h("h2", "Latents"),
    parts.list,
    parts.picker,
    h("h2", "Sampling"),
    settings(state, changed),
    h("p.go", h("button.primary", { type: "submit", "aria-keyshortcuts": "Control+Enter" }, "Steer"), parts.status),
  );
}

export async function steer(context) {
  const { route, source, signal } = context;
  const told = await context.run;
  if (!told.can.steer) return unavailable("Steer");
  const state = readState(route.params, told.run.n_latents);
  const largest = new Map();
  const results = h(
    "section.outcome",
    { "aria-label": "What it changes" },
    nothing("Next tokens and continuations, before and after, appear here."),
  );
  const status = h("p.status");
  const send = sender(state, largest, context, results, status);
  let hasRun = false;
  const changed = () => {
    writeState(state);
    if (!hasRun) return;
    results.classList.add("stale");
    fill(status, "Changed since: steer again.");
  };
  // Strengths need the largest activations.
  const run = async () => {
    hasRun = true;
    await Promise.allSettled(
      state.latents.map(async ({ latent }) => largest.set(latent, (await source.latent(latent, signal)).largest)),
    );
    if (!signal.aborted) await send();
  };
  const chosen = chosenLatents(state, largest, context, changed);
  const parts = { list: chosen.list, picker: latentPicker(context, told.run.n_latents, chosen.add), status };
  return {
    title: "Steer",
    content: [h("header.page-head", h("h1", "Steer")), h("div.steer", formOf(state, parts, changed, run), results)],
    // An address that says everything shows its result at once.
    shown: () => state.text !== "" && state.latents.length > 0 && run(),
  };
}
