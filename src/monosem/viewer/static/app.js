// The shell: which page an address shows, what stands in the header, and what all pages share.

import {compare} from "./compare.js";
import {fill, h} from "./dom.js";
import {setPageKeys, startKeys} from "./keys.js";
import {latent} from "./latent.js";
import {overview} from "./overview.js";
import {notice} from "./parts.js";
import {prompt} from "./prompt.js";
import {hideReading, startReadings} from "./reading.js";
import {address, parse, toLatent, toSearch, wholeNumber} from "./route.js";
import {search} from "./search.js";
import {openSource} from "./source.js";
import {steer} from "./steer.js";
import {startTheme} from "./choices.js";
import {prose} from "./text.js";

const PAGES = {"": overview, latents: search, latent, prompt, steer, compare};
const main = document.getElementById("main");
const said = document.getElementById("said");
const source = openSource();
const run = source.run();
run.catch(() => {}); // told by the page that waits for it

let leaving = new AbortController();
// Where each step of the history was scrolled to: going back should find the place again.
const scrolled = new Map();
let steps = 0;

function announce(text) {
  said.textContent = text;
}

function links(can) {
  const shown = [
    ["Overview", "", true],
    ["Latents", "latents", true],
    ["Prompt", "prompt", can.prompt],
    ["Steer", "steer", can.steer],
    ["Compare", "compare", can.compare !== null],
  ];
  return shown.filter(([, , is]) => is).map(([text, page]) => h("a", {href: address(page), "data-page": page}, text));
}

function markCurrent(page) {
  for (const link of document.querySelectorAll("#nav a")) {
    const isCurrent = link.dataset.page === page || (page === "latent" && link.dataset.page === "latents");
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function failed(error) {
  const again = h("button", {onclick: () => location.reload()}, "Try again");
  const sentence = error.status === undefined ? `The page could not be drawn: ${error.message}` : error.message;
  return notice("This can’t be shown", sentence, h("span.again", again));
}

const unknown = page =>
  notice(
    "No such page",
    `There is no page “${prose(page, 40)}” here. The `,
    h("a", {href: address("")}, "overview"),
    " is.",
  );

async function draw(route, signal) {
  if (!Object.hasOwn(PAGES, route.page)) return unknown(route.page);
  try {
    return await PAGES[route.page]({route, source, run, signal, announce});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.status === undefined) console.error(error);
    return failed(error);
  }
}

function place(shown, isFirst) {
  hideReading();
  fill(main, shown.content);
  setPageKeys(shown.keys);
  document.title = `${shown.title} · monosem`;
  const there = scrolled.get(history.state?.step);
  if (there === undefined) history.replaceState({step: (steps += 1) + Date.now()}, "");
  scrollTo(0, there ?? 0);
  if (isFirst) return;
  announce(shown.title);
  // What was focused is gone; the new page begins at its top.
  if (!main.contains(document.activeElement) && !document.activeElement.closest?.(".bar form"))
    main.focus({preventScroll: true});
}

let isFirst = true;
async function show() {
  const route = parse(location.hash);
  if (route === null) return;
  leaving.abort();
  leaving = new AbortController();
  const {signal} = leaving;
  markCurrent(route.page);
  main.ariaBusy = "true";
  try {
    const shown = await draw(route, signal);
    if (signal.aborted) return;
    place(shown, isFirst);
    isFirst = false;
    main.ariaBusy = null;
    shown.shown?.();
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

function focusSearch() {
  const field = main.querySelector("[data-search]") ?? document.getElementById("jump-to");
  field.focus();
  field.select();
}

function startJump() {
  const field = document.getElementById("jump-to");
  document.getElementById("jump").addEventListener("submit", event => {
    event.preventDefault();
    if (field.value === "") return;
    const number = wholeNumber(field.value);
    location.hash = number === null ? toSearch({fires: field.value}) : toLatent(number);
    field.value = "";
    field.blur();
  });
}

function start() {
  history.scrollRestoration = "manual";
  document.getElementById("skip").addEventListener("click", event => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("scroll", () => history.state?.step && scrolled.set(history.state.step, scrollY), {passive: true});
  addEventListener("hashchange", show);
  startTheme();
  startReadings();
  startKeys(focusSearch);
  startJump();
  run.then(
    ({can}) => {
      fill(document.getElementById("nav"), links(can));
      markCurrent(parse(location.hash)?.page);
    },
    () => {},
  );
  show();
}

start();
