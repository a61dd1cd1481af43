"""What a run's settings are when the user leaves them open. All counts are tokens."""


def default_dead_tokens(tokens: int) -> int:
    """Ten million, as in the paper, or a tenth of a shorter run, where ten million would never act."""
    return max(1, min(10_000_000, tokens // 10))


def default_ema_tokens(tokens: int, batch_size: int) -> int:
    """The average's horizon: a thousand steps, as in the paper, or a tenth of a shorter run."""
    return max(batch_size, min(1000 * batch_size, tokens // 10))


def auto_learning_rate(n_latents: int, batch_size: int, tokens: int) -> float:
    """The fitted rule for Adam's learning rate: TODO."""
    return 1e-3 * (n_latents / 4096) ** -0.5 * (batch_size / 2048) ** 0.5 * (tokens / 1e6) ** -0.25
