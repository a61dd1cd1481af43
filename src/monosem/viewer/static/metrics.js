// What an evaluation's metrics are called here, what each means in a line, and in which group it stands.

const OTHER_K = "Read with another number of latents a token";
const PUT = {
  reconstruction: "the reconstruction",
  mean_ablation: "the mean",
  resample_ablation: "others’ activations",
  zero_ablation: "zeros",
};
const PROBED = {
  "": "the best latent",
  _channel: "the best raw channel",
  _linear: "a linear probe on all channels",
  _constant: "the base rate",
};
const ABLATED = {latents: "Latents", channels: "Raw channels", directions: "Random directions"};

/** Entries of metrics whose names differ in one part: `prefix + key`. */
const family = (prefix, parts, describe) =>
  Object.fromEntries(Object.entries(parts).map(([key, words]) => [prefix + key, describe(words)]));

// By group and name: label, meaning, whether it is a share that is told in percent.
const GROUPS = {
  Activations: {
    normalized_mse: ["Normalised MSE", "Error of the reconstruction; 1 is what predicting the mean gives"],
    l0: ["L0", "Active latents a token"],
    dead_share: ["Dead latents", "Share that no evaluated token made fire", true],
  },
  "Cross-entropy, nats a token": {
    cross_entropy: ["Unmodified", "The subject model as it is"],
    cross_entropy_increase: ["Increase", "What the reconstruction costs"],
    compute_equivalent: ["Compute equivalent", "Share of the subject’s compute that gives this loss", true],
    ...family("cross_entropy_", PUT, words => [`With ${words}`, "In place of the activations"]),
  },
  "KL divergence, nats a token": family("kl_", PUT, words => [
    `With ${words}`,
    "From the unmodified model’s predictions",
  ]),
  "Loss recovered": family("loss_recovered_", PUT, words => [
    `Against ${words}`,
    `0%: ${words} in their place; 100%: unmodified`,
    true,
  ]),
  "Probes: one latent a task": {
    ...family("probe_loss", PROBED, words => [`Loss of ${words}`, "Held-out nats, mean over tasks"]),
    ...family("probe_accuracy", PROBED, words => [`Accuracy of ${words}`, "Held-out, mean over tasks", true]),
  },
  "N2G patterns, on held-out text": family(
    "n2g_",
    {
      precision_random: ["Precision", "random"],
      recall_random: ["Recall", "random"],
      f1_random: ["F1", "random"],
      precision_top: ["Precision", "strongest"],
      recall_top: ["Recall", "strongest"],
      f1_top: ["F1", "strongest"],
    },
    ([score, kind]) => [`${score}, ${kind}`, `Of patterns built from ${kind} activations`],
  ),
  "Ablation: on how few logits something acts": {
    ...family("ablation_sparsity_", ABLATED, words => [words, "1 where all logits move alike; small where few do"]),
    ...family("ablation_own_sparsity_", ABLATED, words => [
      `${words}, own token`,
      "At the ablated token alone; 0.637 for Gaussian effects",
    ]),
  },
  "Refined codes": {
    normalized_mse_refined: ["Normalised MSE", "With the active values refitted"],
    normalized_mse_ratio: ["Ratio of the errors", "Refined over original"],
    ratio_of_means: ["Ratio of mean values", "Refined over original; above 1: values had shrunk"],
    mean_ratio: ["Mean ratio of values", "Refined over original, value by value"],
    zeroed_share: ["Zeroed", "Share of active values that refinement sets to 0", true],
    cross_entropy_increase_reconstruction: ["Cross-entropy increase, original", "On the refined tokens"],
    cross_entropy_increase_refined: ["Cross-entropy increase, refined", "Nats a token"],
    kl_refined: ["Divergence, refined", "Nats a token"],
  },
  [OTHER_K]: {},
  Dictionary: {
    twin_share: ["With a near twin", "Decoder rows with another at a cosine above 0.9", true],
    largest_cosine: ["Nearest row", "Mean cosine of a decoder row and its nearest"],
    alignment: ["Encoder and decoder", "Mean cosine of a latent’s two rows"],
    silent_share: ["Silent at the end", "Latents that training’s last tokens did not make fire", true],
  },
  "Explanations in words": {
    words_precision: ["Precision", "Share of the tokens a model predicts by them that are active"],
    words_recall: ["Recall", "Share of the active tokens that it predicts"],
    words_f1: ["F1", "Harmonic mean of the two"],
  },
  Others: {},
};

const KNOWN = new Map(
  Object.entries(GROUPS).flatMap(([group, metrics]) =>
    Object.entries(metrics).map(([name, [label, meaning, isShare = false]]) => [
      name,
      {group, label, meaning, isShare},
    ]),
  ),
);

/** `{ group, label, meaning, isShare }` of a metric; one that is not known here goes by its own name. */
export function describe(name) {
  if (KNOWN.has(name)) return KNOWN.get(name);
  const other = {meaning: "", isShare: false};
  const k = /^normalized_mse_k_(\d+)$/.exec(name)?.[1];
  if (k !== undefined) return {...other, group: OTHER_K, label: `Normalised MSE at k = ${k}`};
  const [, hookpoint] = name.split("normalized_mse ");
  if (hookpoint) return {...other, group: "Activations", label: `Normalised MSE at ${hookpoint}`};
  return {...other, group: "Others", label: name, meaning: "No description of this metric here"};
}

/** `[group, [metric with its description, …]]`, groups without any left out. */
export function grouped(metrics) {
  const rows = metrics.map(metric => ({...metric, ...describe(metric.name)}));
  const groups = Object.keys(GROUPS).map(group => [group, rows.filter(row => row.group === group)]);
  return groups.filter(([, found]) => found.length > 0);
}

/** Those that the overview shows large, as it names them. */
export const LEADING = {
  normalized_mse: "Normalised MSE",
  l0: "L0",
  dead_share: "Dead latents",
  cross_entropy_increase: "Cross-entropy increase",
  loss_recovered_mean_ablation: "Loss recovered",
  compute_equivalent: "Compute equivalent",
};
