"""What a run's settings are when the user leaves them open. All counts are tokens."""


def default_dead_tokens(tokens: int) -> int:
    """Ten million, as in the paper, or a fiftieth of a shorter run, where ten million would never act."""
    return max(1, min(10_000_000, tokens // 50))


def default_ema_tokens(tokens: int, batch_size: int) -> int:
    """The average's horizon: a thousand steps, as in the paper, or a tenth of a shorter run."""
    return max(batch_size, min(1000 * batch_size, tokens // 10))


def default_warmup_tokens(tokens: int, batch_size: int) -> int:
    """A thousand steps, or a tenth of a shorter run."""
    return min(1000 * batch_size, tokens // 10)


def warmup_factor(tokens: int, warmup_tokens: int) -> float:
    """The share of the full learning rate in the step that brings the run to so many tokens: a straight rise."""
    return 1.0 if tokens >= warmup_tokens else tokens / warmup_tokens


def auto_learning_rate(n_latents: int, batch_size: int, tokens: int) -> float:
    """Adam's learning rate: 4.2e-3 · (n / 4096)^−½ · (B / 2048)^0.3 · (T / 1M)^−0.3, batch B and budget T in tokens.

    Fitted to docs/results/learning_rate.jsonl (the bundled subject, k = 32): the best rates with at most 1% dead
    latents. The fit's constant is 4.5e-3; it is taken a little lower, for above the rule the dead share rises steeply.
    """
    return 4.2e-3 * (n_latents / 4096) ** -0.5 * (batch_size / 2048) ** 0.3 * (tokens / 1e6) ** -0.3
