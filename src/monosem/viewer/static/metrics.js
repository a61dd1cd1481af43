// What an evaluation's metrics are called here, what each means in a line, and in which group it stands.

// name: [label, meaning, is a share that is told in percent]
const CROSS_ENTROPY = "Cross-entropy, nats a token";
const KL = "KL divergence, nats a token";
const RECOVERED = "Loss recovered";
const PROBES = "Probes: one latent a task";
const PATTERNS = "N2G patterns, on held-out text";
const ABLATION = "Ablation: on how few logits something acts";
const REFINED = "Refined codes";
const OTHER_K = "Read with another number of latents a token";
const DICTIONARY = "Dictionary";
const WORDS = "Explanations in words";

const GROUPS = {
  Activations: {
    normalized_mse: ["Normalised MSE", "Error of the reconstruction; 1 is what predicting the mean gives"],
    l0: ["L0", "Active latents a token"],
    dead_share: ["Dead latents", "Share that no evaluated token made fire", true],
  },
  [CROSS_ENTROPY]: {
    cross_entropy: ["Unmodified", "The subject model as it is"],
    cross_entropy_reconstruction: ["With the reconstruction", "The reconstruction in the activations’ place"],
    cross_entropy_increase: ["Increase", "What the reconstruction costs"],
    compute_equivalent: ["Compute equivalent", "Share of its training at which the subject’s family is as good", true],
    cross_entropy_mean_ablation: ["With the mean", "Every activation replaced by the mean"],
    cross_entropy_resample_ablation: ["With others’ activations", "Each replaced by another token’s"],
    cross_entropy_zero_ablation: ["With zeros", "Every activation replaced by zeros"],
  },
  [KL]: {
    kl_reconstruction: ["With the reconstruction", "How far predictions move"],
    kl_mean_ablation: ["With the mean", "The same of mean-ablation"],
    kl_resample_ablation: ["With others’ activations", "The same of resampling"],
    kl_zero_ablation: ["With zeros", "The same of zero-ablation"],
  },
  [RECOVERED]: {
    loss_recovered_mean_ablation: ["Against the mean", "0% is mean-ablation, 100% the unmodified model", true],
    loss_recovered_resample_ablation: ["Against others’ activations", "0% is resampling", true],
    loss_recovered_zero_ablation: ["Against zeros", "0% is zero-ablation", true],
  },
  [PROBES]: {
    probe_loss: ["Loss of the best latent", "Held-out nats, mean over tasks"],
    probe_loss_channel: ["Loss of the best channel", "Of the raw activations"],
    probe_loss_linear: ["Loss of a linear probe", "On all channels together"],
    probe_loss_constant: ["Loss of the base rate", "Knowing nothing of the token"],
    probe_accuracy: ["Accuracy of the best latent", "Held-out, mean over tasks", true],
    probe_accuracy_channel: ["Accuracy of the best channel", "", true],
    probe_accuracy_linear: ["Accuracy of a linear probe", "", true],
    probe_accuracy_constant: ["Accuracy of the base rate", "", true],
  },
  [PATTERNS]: {
    n2g_precision_random: [
      "Precision, random",
      "Of tokens predicted active, how many are; patterns built from random activations",
    ],
    n2g_recall_random: ["Recall, random", "Of active tokens, how many are predicted"],
    n2g_f1_random: ["F1, random", "Harmonic mean of the two"],
    n2g_precision_top: ["Precision, strongest", "The same of patterns built from the strongest activations"],
    n2g_recall_top: ["Recall, strongest", ""],
    n2g_f1_top: ["F1, strongest", ""],
  },
  [ABLATION]: {
    ablation_sparsity_latents: ["Latents", "1 where all logits move alike; small where few do"],
    ablation_sparsity_channels: ["Channels", "The same of raw channels"],
    ablation_sparsity_directions: ["Random directions", "The same of random directions"],
    ablation_own_sparsity_latents: ["Latents, own token", "At the ablated token alone; 0.637 for Gaussian effects"],
    ablation_own_sparsity_channels: ["Channels, own token", ""],
    ablation_own_sparsity_directions: ["Random directions, own token", ""],
  },
  [REFINED]: {
    normalized_mse_refined: ["Normalised MSE", "With the active values refitted to the activations"],
    normalized_mse_ratio: ["Ratio of the errors", "Refined over original"],
    ratio_of_means: ["Ratio of mean values", "Refined over original; above 1: values had shrunk"],
    mean_ratio: ["Mean ratio of values", "Refined over original, value by value"],
    zeroed_share: ["Zeroed", "Share of active values that refinement sets to 0", true],
    cross_entropy_increase_reconstruction: ["Cross-entropy increase, original", "On the refined tokens"],
    cross_entropy_increase_refined: ["Cross-entropy increase, refined", ""],
    kl_refined: ["Divergence, refined", "Nats a token"],
  },
  [OTHER_K]: {},
  [DICTIONARY]: {
    twin_share: ["With a near twin", "Decoder rows with another at a cosine above 0.9", true],
    largest_cosine: ["Nearest row", "Mean cosine of a decoder row and its nearest"],
    alignment: ["Encoder and decoder", "Mean cosine of a latent’s two rows"],
    silent_share: ["Silent at the end", "Latents that training’s last tokens did not make fire", true],
  },
  [WORDS]: {
    words_precision: ["Precision", "Of tokens that a model predicts by the sentence, how many are active", true],
    words_recall: ["Recall", "Of active tokens, how many it predicts", true],
    words_f1: ["F1", "Harmonic mean of the two", true],
  },
  Others: {},
};

const KNOWN = new Map(
  Object.entries(GROUPS).flatMap(([group, metrics]) =>
    Object.entries(metrics).map(([name, told]) => [name, [group, ...told]]),
  ),
);

/** `{ group, label, meaning, isShare }` of a metric; one that is not known here goes by its own name. */
export function describe(name) {
  if (KNOWN.has(name)) {
    const [group, label, meaning, isShare = false] = KNOWN.get(name);
    return { group, label, meaning, isShare };
  }
  const other = { meaning: "", isShare: false };
  const k = /^normalized_mse_k_(\d+)$/.exec(name)?.[1];
  if (k !== undefined) return { ...other, group: OTHER_K, label: `Normalised MSE at k = ${k}` };
  if (name.startsWith("normalized_mse "))
    return { ...other, group: "Activations", label: `Normalised MSE at ${name.slice(15)}` };
  return { ...other, group: "Others", label: name, meaning: "No description of this metric here" };
}

/** The metrics in their groups: `[group, [metric with its description, …]]`, groups without any left out. */
export function grouped(metrics) {
  const rows = metrics.map((metric) => ({ ...metric, ...describe(metric.name) }));
  const groups = Object.keys(GROUPS).map((group) => [group, rows.filter((row) => row.group === group)]);
  return groups.filter(([, rows]) => rows.length > 0);
}

/** Those that the overview shows large. */
export const LEADING = [
  "normalized_mse",
  "l0",
  "dead_share",
  "cross_entropy_increase",
  "loss_recovered_mean_ablation",
  "compute_equivalent",
];
