// Addresses of views: #/page/number?key=value. Every view has one, so that it can be shared and gone back to.

/** What an address names: `{ page, id, params }`; null where it is no address of ours. */
export function parse(hash) {
  if (hash !== "" && hash !== "#" && !hash.startsWith("#/")) return null;
  const [path, query = ""] = hash.slice(2).split(/\?(.*)/s);
  const [page = "", id = null] = path.split("/");
  return {page, id, params: new URLSearchParams(query)};
}

/** As a query; what has no value is left out. */
export const queryOf = values =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value != null && value !== "")).toString();

/** The address of a view. */
export function address(page, id = null, params = {}) {
  // Colons and commas may stand in a fragment as they are, and read better so.
  const query = queryOf(params).replaceAll("%3A", ":").replaceAll("%2C", ",");
  return `#/${page}${id === null ? "" : `/${encodeURIComponent(id)}`}${query ? `?${query}` : ""}`;
}

export const toLatent = (latent, params) => address("latent", latent, params);
export const toSearch = params => address("latents", null, params);

/** Change the address of the view that is shown, without a step in the history. */
export function replaceAddress(page, id, params) {
  history.replaceState(history.state, "", address(page, id, params));
}

/** A whole number ≥ 0 in a text, or null. */
export const wholeNumber = text => (/^\d{1,9}$/.test(text?.trim() ?? "") ? Number(text) : null);

/** A parameter's number, or what stands in for it. */
export function numberParam(params, name, otherwise) {
  const text = params.get(name);
  const value = Number(text);
  return text === null || text.trim() === "" || !Number.isFinite(value) ? otherwise : value;
}
