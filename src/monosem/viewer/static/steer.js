// Steering: latents added, clamped, ablated or scaled while the subject model reads on, and what that changes.
// In the address: #/steer?text=…&latents=123:add:4,7:ablate&keep=0&samples=5

import {fill, h} from "./dom.js";
import {percent, short, within} from "./numbers.js";
import {lastOnly, nothing, pageHead, wrong} from "./parts.js";
import {bar} from "./plots.js";
import {unavailable} from "./prompt.js";
import {numberParam, replaceAddress} from "./route.js";
import {HOWS, latentPicker, steeredRow} from "./steer_latents.js";
import {tokenChip, tokenNodes} from "./text.js";

function change(before, after) {
  if (!(before > 0) || !(after > 0)) return "";
  const ratio = after / before;
  return ratio >= 1 ? `× ${short(ratio, 2)}` : `÷ ${short(1 / ratio, 2)}`;
}

/** Paired bars: a token's probability before, and after. */
function nextTokens(rows) {
  const most = Math.max(...rows.map(({before, after}) => Math.max(before, after)), 1e-9);
  const line = (name, share, kind) =>
    h("span.paired", h("span.unseen", name), bar(share / most, kind), h("span.number", percent(share)));
  const body = rows.map(({text, before, after}) =>
    h(
      "tr",
      h("th", {scope: "row"}, tokenChip(text)),
      h("td", line("before", before, "plain"), line("after", after, "")),
      h("td.number", change(before, after)),
    ),
  );
  const head = h(
    "tr",
    h("th", {scope: "col"}, "Token"),
    h("th", {scope: "col"}, "Probability"),
    h("th", {scope: "col"}, "Change"),
  );
  return h("table.next", h("caption.unseen", "Next token, before and after"), h("thead", head), h("tbody", body));
}

const continuation = tokens =>
  h(
    "li",
    h(
      "p.context.lines",
      tokens.length ? tokens.map(text => h("span.t", tokenNodes(text, true))) : h("span.none", "nothing"),
    ),
  );

function continuations({before, after}) {
  const column = (title, kind, samples) =>
    h(
      "div",
      h("h3", h("span", {class: `key ${kind}`, "aria-hidden": "true"}), title),
      h("ol.continuations", samples.map(continuation)),
    );
  return h("div.pair", column("Before", "plain", before), column("After", "", after));
}

function outcome(answer) {
  const legend = h(
    "p.note",
    h("span.key.plain", {"aria-hidden": "true"}),
    "before ",
    h("span.key", {"aria-hidden": "true"}),
    "after",
  );
  const none = h("p.none", "No continuations were sampled.");
  return [
    h("h2", "Next token"),
    legend,
    nextTokens(answer.next),
    h("h2", "Continuations"),
    answer.after.length ? continuations(answer) : none,
  ];
}

const SAMPLING = {
  length: {label: "Tokens", usual: 30, min: 1, max: 100, step: 1},
  samples: {label: "Samples", usual: 3, min: 1, max: 5, step: 1},
  temperature: {label: "Temperature", usual: 1, min: 0.1, max: 3, step: 0.1},
  seed: {label: "Seed", usual: 0, min: 0, max: 999999, step: 1},
};

const ENTRY = /^(\d{1,9}):(add|clamp|ablate|scale)(?::(-?\d{1,4}(?:\.\d{1,4})?))?$/;

/** "123:add:4,7:ablate" → `[{ latent, how, multiple }, …]`, each latent once; what cannot be read is left out. */
function readLatents(text, total) {
  const found = new Map();
  for (const part of text.split(",")) {
    const [, number, how, multiple] = ENTRY.exec(part.trim()) ?? [];
    const latent = Number(number);
    if (!(latent < total)) continue;
    const {usual, min, max} = HOWS[how];
    found.set(latent, {
      latent,
      how,
      multiple: multiple === undefined || how === "ablate" ? usual : within(Number(multiple), min, max),
    });
  }
  return [...found.values()];
}

const tellLatent = ({latent, how, multiple}) =>
  how === "ablate" ? `${latent}:${how}` : `${latent}:${how}:${multiple}`;

function readState(params, total) {
  const numbers = Object.entries(SAMPLING).map(([name, {usual, min, max}]) => [
    name,
    within(numberParam(params, name, usual), min, max),
  ]);
  const latents = readLatents(params.get("latents") ?? "", total);
  return {text: params.get("text") ?? "", latents, keep: params.get("keep") !== "0", ...Object.fromEntries(numbers)};
}

function writeState(state) {
  const numbers = Object.entries(SAMPLING).map(([name, {usual}]) => [name, state[name] === usual ? null : state[name]]);
  const latents = state.latents.map(tellLatent).join(",");
  replaceAddress("steer", null, {
    text: state.text,
    latents,
    keep: state.keep ? null : 0,
    ...Object.fromEntries(numbers),
  });
}

/** Strengths go out in the latent's own units: a multiple of its largest seen activation, but for a factor. */
function request({latents, keep, ...others}, largest) {
  const strength = ({latent, how, multiple}) => {
    if (how === "ablate") return 0;
    return HOWS[how].isFactor ? multiple : multiple * (largest.get(latent) ?? 1);
  };
  const told = latents.map(each => ({latent: each.latent, how: each.how, strength: strength(each)}));
  return {...others, latents: told, keep_error: keep};
}

function settings(state, changed) {
  const numbers = Object.entries(SAMPLING).map(([name, {label, usual, ...limits}]) => {
    const type = ({target}) => {
      if (target.value === "" || !target.validity.valid) return;
      state[name] = Number(target.value);
      changed();
    };
    const input = h("input", {type: "number", ...limits, value: state[name], oninput: type});
    return h("label", h("span.field-name", label), input);
  });
  const check = ({target}) => {
    state.keep = target.checked;
    changed();
  };
  const keep = h("input", {type: "checkbox", checked: state.keep, onchange: check});
  const about = h("span.soft", "so that only the latents’ own contribution changes");
  return h("div.settings", numbers, h("label.check", keep, h("span", "Keep the reconstruction’s error", about)));
}

function chosenLatents(state, largest, context, changed) {
  const list = h("ul.steered");
  const draw = () => {
    const rows = state.latents.map(each => {
      const remove = () => {
        state.latents = state.latents.filter(other => other !== each);
        changed();
        draw();
        document.getElementById("steer-find").focus();
      };
      return steeredRow(each, {...context, largest, changed, remove});
    });
    fill(list, rows.length ? rows : h("li", nothing("No latent is chosen yet.")));
  };
  const add = latent => {
    if (!state.latents.some(each => each.latent === latent))
      state.latents.push({latent, how: "add", multiple: HOWS.add.usual});
    changed();
    draw();
  };
  draw();
  return {list, add};
}

function sender(state, largest, {source, signal, announce}, results, status) {
  const only = lastOnly(signal);
  return async () => {
    if (state.text === "" || state.latents.length === 0) {
      fill(status, state.text === "" ? "Type a text first." : "Choose a latent first.");
      return;
    }
    fill(status, "Steering…");
    results.ariaBusy = "true";
    const done = await only(own => source.steer(request(state, largest), own));
    if (done === null) return;
    results.ariaBusy = null;
    fill(status, done.error && wrong(done.error));
    announce(done.error ? done.error.message : "Steered: next tokens and continuations follow.");
    if (done.error) return;
    fill(results, outcome(done.result));
    results.classList.remove("stale");
  };
}

function formOf(state, parts, changed, run) {
  const type = ({target}) => {
    state.text = target.value;
    changed();
  };
  const submit = event => {
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
    {onsubmit: submit, onkeydown: event => event.key === "Enter" && event.ctrlKey && submit(event)},
    h("label.field-name", {htmlFor: "steer-text"}, "Text"),
    field,
    h("h2", "Latents"),
    parts.list,
    parts.picker,
    h("h2", "Sampling"),
    settings(state, changed),
    h("p.go", h("button.primary", {type: "submit", "aria-keyshortcuts": "Control+Enter"}, "Steer"), parts.status),
  );
}

export async function steer(context) {
  const {route, source, signal} = context;
  const told = await context.run;
  if (!told.can.steer) return unavailable("Steer");
  const state = readState(route.params, told.run.n_latents);
  const largest = new Map();
  const results = h(
    "section.outcome",
    {"aria-label": "What it changes"},
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
      state.latents.map(async ({latent}) => largest.set(latent, (await source.latent(latent, signal)).largest)),
    );
    if (!signal.aborted) await send();
  };
  const chosen = chosenLatents(state, largest, context, changed);
  const parts = {list: chosen.list, picker: latentPicker(context, told.run.n_latents, chosen.add), status};
  return {
    title: "Steer",
    content: [pageHead("Steer"), h("div.steer", formOf(state, parts, changed, run), results)],
    // An address that says everything shows its result at once.
    shown: () => state.text !== "" && state.latents.length > 0 && run(),
  };
}
