// The search: conditions on one side, and on the other the latents that meet all of them, while one types.

import {conditions, densityRange, wantedOf} from "./conditions.js";
import {debounced, fill, h} from "./dom.js";
import {count, hundredth, percent, short, signed, within} from "./numbers.js";
import {lastOnly, latentName, menu, pageHead, wrong} from "./parts.js";
import {bar} from "./plots.js";
import {replaceAddress, toSearch} from "./route.js";
import {prose, proseNode, tokenChip} from "./text.js";

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
    list.setAttribute("aria-busy", "true");
    const request = {...wanted, offset: offset || null, limit: A_PAGE};
    const done = await only(own => source.search(request, {signal: own, progress}));
    if (done === null) return;
    list.removeAttribute("aria-busy");
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
