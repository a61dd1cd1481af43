// The conditions of a search: texts in tokens, patterns and explanations, another latent, a range of densities.

import {h} from "./dom.js";
import {percent} from "./numbers.js";
import {nothing, textField} from "./parts.js";

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
export const wantedOf = params =>
  Object.fromEntries([...Object.keys(FIELDS), "low", "high", "order"].map(name => [name, params.get(name) ?? ""]));

/** The fields; one that nothing in this run could meet says so instead. */
export function conditions(wanted, {patterns, explanations}, change) {
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
export function densityRange(wanted, change) {
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
