// The search: conditions on one side, and on the other the latents that meet all of them, while one types.

import {debounced, fill, h} from "./dom.js";
import {count, hundredth, percent, short, signed, within} from "./numbers.js";
import {lastOnly, latentName, menu, nothing, pageHead, textField, wrong} from "./parts.js";
import {bar} from "./plots.js";
import {replaceAddress, toSearch} from "./route.js";
import {prose, proseNode, tokenChip} from "./text.js";

const LOWEST = -6; // log10 of the density at the range's left end, which stands for: any

const FIELDS = {
  fires: ["Fires on", "text in a token"],
  promotes: ["Promotes", "text in a token"],
  suppresses: ["Suppresses", "text in a token"],
  pattern: ["Pattern", "text in an N2G pattern"],
  explanation: ["Explanation", "text in a sentence"],
  like: ["Like latent", "its number"],
};

/** What is asked for, as it stands in the address. */
const wantedOf = params =>
  Object.fromEntries([...Object.keys(FIELDS), "low", "high", "order"].map(name => [name, params.get(name) ?? ""]));

/** The fields; one that nothing in this run could meet says so instead. */
function conditions(wanted, {patterns, explanations}, change) {
  const missing = {
    pattern: patterns === 0 && "The run has no N2G patterns.",
    explanation: explanations === 0 && "The run has no explanations in words.",
  };
  const inputs = {};
  const fields = Object.entries(FIELDS).map(([name, [label, placeholder]]) => {
    if (missing[name]) return h("div.field", h("span.field-name", label), nothing(missing[name]));
    const type = () => {
      wanted[name] = inputs[name].value;
      change();
    };
    inputs[name] = textField(`find-${name}`, placeholder, {
      value: wanted[name],
      inputmode: name === "like" ? "numeric" : null,
      "data-search": name === "fires",
      oninput: type,
    });
    return h("div.field", h("label.field-name", {htmlFor: `find-${name}`}, label), inputs[name]);
  });
  return {fields, inputs};
}

/** Two sliders on one track of decades; their ends mean: any. */
function densityRange(wanted, change) {
  const told = h("output.number");
  const slider = (name, label, any) => {
    const value = wanted[name] === "" ? any : Math.log10(Math.max(Number(wanted[name]), 10 ** LOWEST));
    return h("input", {type: "range", min: LOWEST, max: 0, step: 0.1, "aria-label": label, value});
  };
  const [low, high] = [slider("low", "Lowest density", LOWEST), slider("high", "Highest density", 0)];
  const track = h("div.range-pair", low, high);
  const draw = () => {
    for (const each of [low, high]) each.setAttribute("aria-valuetext", percent(10 ** each.value));
    const [isLow, isHigh] = [low.value > LOWEST, high.value < 0];
    const ends = [isLow ? percent(10 ** low.value) : "0", isHigh ? percent(10 ** high.value) : "100%"];
    told.value = isLow || isHigh ? ends.join(" – ") : "any";
    // Where both stand at the right end, the lower one must be the one to be grasped.
    low.style.zIndex = low.value > LOWEST / 2 ? "2" : "1";
    track.style.setProperty("--from", String(1 - low.value / LOWEST));
    track.style.setProperty("--to", String(1 - high.value / LOWEST));
  };
  track.addEventListener("input", ({target}) => {
    // One end pushes the other: a range never turns around.
    if (Number(low.value) > Number(high.value)) (target === low ? high : low).value = target.value;
    wanted.low = low.value > LOWEST ? (10 ** low.value).toPrecision(3) : "";
    wanted.high = high.value < 0 ? (10 ** high.value).toPrecision(3) : "";
    draw();
    change();
  });
  draw();
  return h("div.field", {role: "group", "aria-label": "Density"}, h("span.field-name", "Density ", told), track);
}

const WAIT = 120;
const A_PAGE = 50;
const ORDERS = {
  match: "best match",
  density: "densest",
  rare: "rarest",
  largest: "largest activation",
  number: "number",
};

const percentage = value => ` ${percent(value)}`;
const effect = value => ` ${signed(value)}`;
// Of each kind of reason: its words, how its text is shown, and its number.
const REASONS = {
  fires: ["fires on", tokenChip, percentage],
  promotes: ["promotes", tokenChip, effect],
  suppresses: ["suppresses", tokenChip, effect],
  pattern: ["pattern", text => h("code", prose(text, 60)), null],
  explanation: ["explained as", proseNode, null],
  like: ["like", text => prose(text), value => `, cosine ${hundredth(value)}`],
};

function reason({kind, text, value}) {
  const [words, show, number] = REASONS[kind] ?? [kind, prose, null];
  return h("li", `${words} `, show(text), value !== null && number && h("span.number", number(value)));
}

function resultRow(found) {
  const {density, largest, why} = found;
  // The bar's decades: from one token in a million to all.
  const share = density > 0 ? 1 + Math.log10(density) / 6 : 0;
  return h(
    "li.result",
    latentName(found),
    why.length > 0 && h("ul.why", why.map(reason)),
    h("span.result-density", bar(share, "dark"), h("span.number", h("span.unseen", "density "), percent(density))),
    h("span.number.result-largest", h("span.unseen", "largest "), short(largest)),
  );
}

function told(number, isMore, wanted) {
  if (number === 0) return "No latent meets all of these conditions.";
  const isAny = Object.entries(wanted).every(([name, value]) => name === "order" || value === "");
  return `${count(number)}${isMore ? " and more" : ""} ${isAny ? "latents: no condition yet" : "found"}`;
}

function resultList(wanted, {source, signal, announce}) {
  const list = h("ol.results", {"aria-label": "Latents found"});
  const status = h("p.status");
  const only = lastOnly(signal);
  const progress = (done, total) =>
    total > 4 && done < total && fill(status, `Searching: ${percent(done / total)} of the latents`);
  const load = async offset => {
    list.ariaBusy = "true";
    const request = {...wanted, offset: offset || null, limit: A_PAGE};
    const done = await only(own => source.search(request, {signal: own, progress}));
    if (done === null) return;
    list.ariaBusy = null;
    if (offset === 0 || done.error) fill(list);
    more.hidden = !done.result?.more;
    if (done.error) fill(status, wrong(done.error));
    else {
      list.append(...done.result.latents.map(resultRow));
      fill(status, told(list.children.length, done.result.more, wanted));
    }
    announce(status.textContent);
  };
  const next = async () => {
    const place = list.children.length;
    await load(place);
    list.children[place]?.querySelector("a").focus();
  };
  const more = h("button", {hidden: true, onclick: next}, "More");
  return {list, status, more, load};
}

function resultKeys(list) {
  const step = by => () => {
    const links = [...list.querySelectorAll(".latent-name")];
    const at = links.indexOf(document.activeElement);
    links[within(at + by, 0, links.length - 1)]?.focus();
  };
  return {j: step(1), k: step(-1), ArrowDown: step(1), ArrowUp: step(-1)};
}

function resultSection({list, status, more}, order) {
  // The fields are made anew even where the address is that of an empty search already.
  const clear = () => location.hash === toSearch() && dispatchEvent(new Event("hashchange"));
  const heads = ["Latent", "Density", "Largest"].map(name => h("span", name));
  return h(
    "section",
    {"aria-label": "Results"},
    h("div.results-head", status, h("a.reset", {href: toSearch(), onclick: clear}, "Clear"), order),
    h("div.result.heads", {"aria-hidden": "true"}, heads),
    list,
    more,
  );
}

function formOf(fields, inputs, list) {
  inputs.fires.addEventListener("keydown", event => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    list.querySelector("a")?.focus();
  });
  const submit = event => event.preventDefault();
  return h("form.conditions", {role: "search", "aria-label": "Conditions on latents", onsubmit: submit}, fields);
}

export async function search(context) {
  const info = await context.run;
  const wanted = wantedOf(context.route.params);
  const results = resultList(wanted, context);
  const later = debounced(() => results.load(0), WAIT);
  const change = () => {
    replaceAddress("latents", null, wanted);
    later();
  };
  const {fields, inputs} = conditions(wanted, info.with, change);
  const order = menu("Order", ORDERS, wanted.order || "match", value => {
    wanted.order = value === "match" ? "" : value;
    change();
  });
  const form = formOf([fields, densityRange(wanted, change)], inputs, results.list);
  await results.load(0);
  return {
    title: "Latents",
    content: [pageHead("Latents"), h("div.search", form, resultSection(results, order))],
    keys: resultKeys(results.list),
  };
}
