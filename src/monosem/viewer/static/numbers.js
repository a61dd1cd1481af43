// Numbers as a reader wants them. What is not defined is an en dash.

const NONE = "–";
const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});

/** The value, or the end of the range that it is beyond. */
export const within = (value, least, most) => Math.max(least, Math.min(most, value));

export const count = value => (value == null ? NONE : whole.format(value));

/** "1 latent", "12 latents" */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** A few significant digits, without an exponent where one can do without. */
export function short(value, digits = 3) {
  if (value == null) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e7)
    return value
      .toExponential(digits - 1)
      .replace("e+", "e")
      .replaceAll("-", "−");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return minus(value.toLocaleString("en", {minimumFractionDigits: decimals, maximumFractionDigits: decimals}));
}

/** All the digits that a 32-bit number has. */
export const exact = value => (value == null ? NONE : minus(String(Number(value.toPrecision(7)))));

const minus = text => text.replace(/^-/, "−");

export const signed = (value, digits = 3) => (value > 0 ? "+" : "") + short(value, digits);

/** A share in percent: 12%, 3.4%, 0.34%, 0.0034% */
export function percent(share, digits = 2) {
  if (share == null) return NONE;
  const value = share * 100;
  if (value === 0) return "0%";
  if (value >= 99.95) return "100%";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return `${value.toFixed(Math.min(decimals, 8))}%`;
}

export const hundredth = value => (value == null ? NONE : minus(value.toFixed(2)));

/** 0.0034 → "1 token in 294" */
export function oneIn(density) {
  if (!density) return "never";
  const tokens = Math.round(1 / density);
  return tokens <= 1 ? "nearly every token" : `1 token in ${count(tokens)}`;
}

/**
 * `{ value: "0.1528", interval: "[0.1413, 0.1660]" }`: two digits of the interval's width, or three of a bare value;
 * shares in percent. Of a value that is known to more than five digits, five are shown.
 */
export function estimate({value, low, high}, isShare = false) {
  if (value === null) return {value: "not defined", interval: ""};
  const factor = isShare ? 100 : 1;
  const numbers = [value, low, high].filter(each => each !== null).map(each => each * factor);
  const size = Math.abs(numbers[0]);
  let width = numbers.length === 3 ? numbers[2] - numbers[1] : 0;
  if (width <= 1e-9 * size) width = 0;
  let finest = width > 0 ? Math.log10(width / 10) : size > 0 ? Math.log10(size / 100) : 0;
  if (size > 0) finest = Math.max(finest, Math.log10(size) - 4);
  const decimals = Math.min(6, Math.max(0, -Math.floor(finest)));
  // + 0 takes the sign from a zero.
  const [first, ...others] = numbers.map(
    each => minus((Number(each.toFixed(decimals)) + 0).toFixed(decimals)) + (isShare ? "%" : ""),
  );
  return {value: first, interval: others.length ? `[${others.join(", ")}]` : ""};
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
export const powerOfTen = exponent =>
  exponent === 0
    ? "1"
    : `10${exponent < 0 ? "⁻" : ""}${[...String(Math.abs(exponent))].map(d => SUPERSCRIPTS[d]).join("")}`;
