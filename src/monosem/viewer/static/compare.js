// Two runs: each latent of one with the nearest of the other, by the cosine of decoder rows.

import {fill, h} from "./dom.js";
import {count, hundredth, percent} from "./numbers.js";
import {lastOnly, latentName, menu, notice, nothing, pageHead, toggle, wrong} from "./parts.js";
import {bar} from "./plots.js";
import {replaceAddress} from "./route.js";
import {prose} from "./text.js";

const A_PAGE = 50;
const ORDERS = {similar: "most alike first", different: "least alike first", number: "by number"};

/** Latents of this run are links; those of the other have their pages in its own viewer. */
function row(each, isOurs) {
  const nearest = each.nearest.map(other =>
    h("li", h("span.number", hundredth(other.similarity)), bar(other.similarity), latentName(other, !isOurs)),
  );
  return h(
    "tr",
    h("th", {scope: "row"}, latentName(each, isOurs)),
    h("td.number", percent(each.density)),
    h("td", nearest.length ? h("ol.nearest", nearest) : nothing("none")),
  );
}

function heads(names) {
  const head = (...content) => h("th", {scope: "col"}, content);
  const name = each => h("bdi", prose(each, 60));
  return h("tr", head("Latent of ", name(names[0])), head("Density"), head("Nearest of ", name(names[1])));
}

function comparedTable(state, {source, signal, announce}) {
  const [head, body, status] = [h("thead"), h("tbody"), h("p.status")];
  const more = h("button", {onclick: () => load(body.rows.length)}, "More");
  const only = lastOnly(signal);
  const load = async offset => {
    const done = await only(own => source.compare({...state, offset, limit: A_PAGE}, {signal: own}));
    if (done === null) return;
    if (done.error) {
      fill(status, wrong(done.error));
      return;
    }
    const {run, other, latents, of, more: isMore} = done.result;
    const isOurs = state.side === "run";
    if (offset === 0) fill(body);
    body.append(...latents.map(each => row(each, isOurs)));
    fill(head, heads(isOurs ? [run, other] : [other, run]));
    more.hidden = !isMore;
    fill(status, `${count(body.rows.length)} of ${count(of)} latents`);
    announce(status.textContent);
  };
  const caption = h("caption.unseen", "Nearest latents of two runs");
  return {load, status, nodes: [h("table.compared", caption, head, body), more]};
}

export async function compare(context) {
  const told = await context.run;
  if (told.can.compare === null) {
    return notice(
      "Compare",
      "No other run was given to compare with. Start the viewer with two: “monosem view RUN --compare OTHER”.",
    );
  }
  const {params} = context.route;
  const state = {
    side: params.get("side") === "other" ? "other" : "run",
    order: Object.hasOwn(ORDERS, params.get("order") ?? "") ? params.get("order") : "similar",
  };
  const table = comparedTable(state, context);
  const sides = h("div.choice", {role: "group", "aria-label": "Whose latents are listed"});
  const change = what => {
    Object.assign(state, what);
    replaceAddress("compare", null, {side: state.side, order: state.order === "similar" ? null : state.order});
    for (const button of sides.children)
      button.setAttribute("aria-pressed", String(button.dataset.side === state.side));
    table.load(0);
  };
  for (const [side, name] of [
    ["run", told.run.name],
    ["other", told.can.compare],
  ]) {
    sides.append(toggle(h("bdi", prose(name, 60)), state.side === side, () => change({side}), {"data-side": side}));
  }
  const order = menu("Order", ORDERS, state.order, value => change({order: value}));
  await table.load(0);
  const lead =
    "Each latent beside the three of the other run with the nearest decoder rows. Only this run’s have pages here.";
  return {
    title: "Compare",
    content: [pageHead("Compare", h("p.lead", lead)), h("div.results-head", sides, table.status, order), table.nodes],
  };
}
