"""An evaluation as a table for the terminal."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.record import Evaluation

if TYPE_CHECKING:
    from rich.table import Table

# Told in percent.
_SHARES = ("dead_share", "loss_recovered", "compute_equivalent", "twin_share", "silent_share")

# Explanations in words that a table shows.
_SENTENCES = 5

Rows = list[tuple[str, str, str]]


def evaluation_table(evaluation: Evaluation) -> "Table":
    """Every metric with its interval, its unit, and how many tokens it was measured on; 80 columns are enough."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    record, metrics = evaluation.record, evaluation.metrics
    documents, of_them = record["documents"], record["downstream_documents"]
    table = Table(
        title=Text(f"{record['subject']} · {record['hookpoint']}", style="bold"),
        caption=Text(f"In brackets: 95% intervals over {documents:,} documents ({of_them:,} for next tokens)."),
        box=box.SIMPLE,
        show_header=False,
        title_justify="left",
        caption_justify="left",
    )
    for is_note in (False, False, True):  # where a line is short of room, only the notes are folded
        table.add_column(no_wrap=not is_note)
    for heading, rows in sections(record).items():
        there = [row for row in rows if row[1] in metrics]
        if not there:
            continue
        table.add_row(*(Text(words, style="bold") for words in heading))
        for label, name, note in there:
            table.add_row(Text(f"  {label}"), Text(format_metric(name, metrics[name])), Text(note))
        table.add_section()
    return table


def sections(record: Mapping[str, Any]) -> dict[tuple[str, str, str], Rows]:
    """Headings, and under each its rows of label, metric and note."""
    tokens, next_tokens = f"{record['tokens']:,} tokens", f"{record['downstream_tokens']:,} next tokens"
    at_hookpoints = [name for name in record["metrics"] if name.startswith("normalized_mse ")]
    return {
        ("Activations", tokens, ""): [
            ("Normalised MSE", "normalized_mse", "1: predicting the mean"),
            *((f"  {name.partition(' ')[2]}", name, "") for name in at_hookpoints),
            ("L0", "l0", "active latents a token"),
            ("Dead share", "dead_share", f"silent on {tokens}"),
        ],
        ("Cross-entropy", next_tokens, "nats a token"): [
            ("Unmodified", "cross_entropy", ""),
            ("With reconstruction", "cross_entropy_reconstruction", ""),
            ("  increase", "cross_entropy_increase", ""),
            ("  compute equivalent", "compute_equivalent", "of the subject's training"),
            ("With mean-ablation", "cross_entropy_mean_ablation", ""),
            ("With resampling", "cross_entropy_resample_ablation", ""),
            ("With zero-ablation", "cross_entropy_zero_ablation", ""),
        ],
        ("KL divergence", next_tokens, "nats a token"): [
            ("With reconstruction", "kl_reconstruction", "from the unmodified"),
            ("With mean-ablation", "kl_mean_ablation", ""),
            ("With resampling", "kl_resample_ablation", ""),
            ("With zero-ablation", "kl_zero_ablation", ""),
        ],
        ("Loss recovered", next_tokens, ""): [
            ("Against mean-ablation", "loss_recovered_mean_ablation", "0%: predicting the mean"),
            ("Against resampling", "loss_recovered_resample_ablation", ""),
            ("Against zero-ablation", "loss_recovered_zero_ablation", ""),
        ],
        **_sections_of_parts(record.get("parts", {})),
    }


def _sections_of_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str, str], Rows]:
    tasks = len(parts["probes"]["tasks"]) if "probes" in parts else 0
    explained = len(parts["n2g"]["latents"]) if "n2g" in parts else 0
    ablated = len(parts["ablation"]["latents"]["members"]) if "ablation" in parts else 0
    refined = parts["refinement"]["tokens"] if "refinement" in parts else 0
    compared = parts["geometry"]["rows"] if "geometry" in parts else 0
    in_words = len(parts["words"]["latents"]) if "words" in parts else 0
    return {
        ("Probe loss", f"{tasks:,} tasks", "held-out nats"): [
            ("Best latent", "probe_loss", "of each task"),
            ("Best channel", "probe_loss_channel", ""),
            ("All channels", "probe_loss_linear", "linear probe"),
            ("Base rate", "probe_loss_constant", ""),
        ],
        ("N2G explanations", f"{explained:,} latents", "on held-out text"): [
            ("Precision, random", "n2g_precision_random", "built from random ones"),
            ("Recall, random", "n2g_recall_random", ""),
            ("Precision, strongest", "n2g_precision_top", "… from the strongest"),
            ("Recall, strongest", "n2g_recall_top", ""),
        ],
        ("Ablation sparsity", f"{ablated:,} latents", "all logits alike: 1"): [
            ("Latents", "ablation_sparsity_latents", ""),
            ("Channels", "ablation_sparsity_channels", ""),
            ("Random directions", "ablation_sparsity_directions", ""),
            ("Latents, own token", "ablation_own_sparsity_latents", "Gaussian effects: 0.637"),
            ("Directions, own token", "ablation_own_sparsity_directions", ""),
        ],
        ("Refined codes", f"{refined:,} tokens", ""): [
            ("Normalised MSE", "normalized_mse_refined", ""),
            ("Refined / original", "ratio_of_means", "1: no shrinkage"),
            ("Cross-entropy increase", "cross_entropy_increase_refined", ""),
        ],
        ("Dictionary", f"{compared:,} decoder rows", ""): [
            ("With a near twin", "twin_share", "cosine above 0.9"),
            ("Encoder · decoder", "alignment", "mean cosine"),
            ("Silent at the end", "silent_share", "of training"),
        ],
        ("Explanations in words", f"{in_words:,} latents", "on held-out text"): [
            ("Precision", "words_precision", "as a model predicts by them"),
            ("Recall", "words_recall", ""),
            ("F1", "words_f1", ""),
        ],
    }


def sentences_table(evaluation: Evaluation) -> "Table | None":
    """The first few latents that are explained in words, if there are any."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    latents = evaluation.parts["words"]["latents"] if "words" in evaluation.parts else []
    if not latents:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Latent", "Precision", "Recall"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("Explanation", overflow="fold")
    for latent in latents[:_SENTENCES]:
        scores = (format_score(latent[name]) for name in ("precision", "recall"))
        table.add_row(str(latent["latent"]), *scores, Text(latent["sentence"]))
    return table


def format_score(value: float | None) -> str:
    """A precision or recall without an interval."""
    return "–" if value is None else f"{value:.2f}"


def format_metric(name: str, estimate: Estimate) -> str:
    """A metric with its interval, shares in percent."""
    return format_estimate(estimate, name.startswith(_SHARES))


def format_estimate(estimate: Estimate, is_share: bool = False) -> str:
    """``0.0483 [0.0461, 0.0505]``: two digits of the interval's width, or three of a bare value; shares in percent.

    Of a value that is known to more than five digits, five are shown.
    """
    if estimate.value is None:
        return "not defined"
    value, *interval = (number * (100 if is_share else 1) for number in estimate if number is not None)
    width = interval[1] - interval[0] if interval else 0.0
    width = width if width > 1e-9 * abs(value) else 0.0
    finest = math.log10(width / 10) if width > 0 else math.log10(abs(value) / 100) if value else 0.0
    finest = max(finest, math.log10(abs(value)) - 4) if value else finest
    decimals = min(6, max(0, -math.floor(finest)))
    first, *others = (f"{round(number, decimals) + 0.0:.{decimals}f}{'%' * is_share}" for number in (value, *interval))
    return f"{first} [{', '.join(others)}]" if others else first
