"""One library's training step, on demand: run by ``benchmarks.peers``, inside that library's own environment.

It reads one JSON object a line from standard input and answers each with one. It imports nothing of monosem.
"""

# The libraries are in other environments than the one that checks types.
# pyright: reportMissingImports=false

import contextlib
import json
import sys
import time
from typing import Any

import torch

DEAD_TOKENS_OF_THE_RUN = 50  # as monosem: a latent is dead after a fiftieth of the run


class Sparsify:
    """eai-sparsify's SparseCoder with the step of its Trainer: Adam, decoder rows of unit length."""

    def __init__(self, d: int, n: int, k: int, learning_rate: float, steps: int, batch: int) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        self.sae = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k))
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=learning_rate)
        self.silent = torch.zeros(n, dtype=torch.int64)
        self.dead_tokens = max(1, steps * batch // DEAD_TOKENS_OF_THE_RUN)

    def start(self, x: torch.Tensor) -> None:
        self.sae.b_dec.data = x.mean(0)

    def step(self, x: torch.Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(x, dead_mask=self.silent > self.dead_tokens)
        (out.fvu + out.auxk_loss / 32).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.silent += len(x)
        self.silent[out.latent_indices.flatten()] = 0

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.sae(x)
        return out.sae_out, out.latent_indices[out.latent_acts > 0]


class SaeLens:
    """sae-lens's TopKTrainingSAE with its SAETrainer's step; autocast to bfloat16, dense activations."""

    def __init__(self, d: int, n: int, k: int, learning_rate: float, steps: int, batch: int) -> None:
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k, device="cpu"))
        config = SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=steps * batch,
            device="cpu",
            autocast=True,
            lr=learning_rate,
            lr_end=learning_rate,
            lr_scheduler_name="constant",
            lr_warm_up_steps=steps // 10,
            adam_beta1=0.9,
            adam_beta2=0.999,
            lr_decay_steps=0,
            n_restart_cycles=1,
            train_batch_size_samples=batch,
            dead_feature_window=max(1, steps // DEAD_TOKENS_OF_THE_RUN),
            feature_sampling_window=10**9,
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(config, self.sae, iter(()))

    def start(self, x: torch.Tensor) -> None:
        self.sae.b_dec.data = x.mean(0)

    def step(self, x: torch.Tensor) -> None:
        self.trainer._train_step(self.sae, x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.sae.encode(x)
        latents = latents.to_dense() if latents.is_sparse else latents
        return self.sae.decode(latents), latents.nonzero()[:, 1]


class DictionaryLearning:
    """dictionary_learning's TopKTrainer."""

    def __init__(self, d: int, n: int, k: int, learning_rate: float, steps: int, batch: int) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.trainer = TopKTrainer(
            steps=steps,
            activation_dim=d,
            dict_size=n,
            k=k,
            layer=0,
            lm_name="none",
            lr=learning_rate,
            warmup_steps=steps // 10,
            seed=0,
            device="cpu",
        )
        self.trainer.dead_feature_threshold = max(1, steps * batch // DEAD_TOKENS_OF_THE_RUN)
        self.steps = 0

    def start(self, x: torch.Tensor) -> None:
        """Its first update takes the geometric median itself."""

    def step(self, x: torch.Tensor) -> None:
        self.trainer.update(self.steps, x)
        self.steps += 1

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.trainer.ae.encode(x)
        return self.trainer.ae.decode(latents), latents.nonzero()[:, 1]


PEERS = {"eai-sparsify": Sparsify, "sae-lens": SaeLens, "dictionary-learning": DictionaryLearning}


def time_steps(peer: Any, x: torch.Tensor, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        peer.step(x)
    return (time.perf_counter() - began) / count


@torch.no_grad()
def evaluate(peer: Any, x: torch.Tensor, n: int) -> dict[str, float]:
    """Normalised MSE, and the share of latents silent on all of x."""
    error, fired = 0.0, torch.zeros(n, dtype=torch.bool)
    for piece in x.split(2048):
        reconstruction, active = peer.reconstruct(piece)
        error += float((piece - reconstruction).double().square().sum())
        fired[active] = True
    spread = float((x - x.mean(dim=0)).double().square().sum())
    return {"normalized_mse": error / spread, "dead_share": 1 - float(fired.float().mean())}


def train(name: str, ask: dict[str, Any]) -> dict[str, float]:
    """Train on stored, shuffled activations, [tokens, d] float32, and evaluate on others."""
    from safetensors.torch import load_file

    data = load_file(ask["file"])
    x, held_out = data["training"], data["held_out"]
    batch, n = ask["batch"], ask["n_latents"]
    steps = len(x) // batch
    torch.manual_seed(0)
    peer = PEERS[name](x.shape[1], n, ask["k"], ask["learning_rate"], steps, batch)
    peer.start(x[:32768])
    began = time.perf_counter()
    for step in range(steps):
        peer.step(x[step * batch : (step + 1) * batch])
    return {"seconds": time.perf_counter() - began, **evaluate(peer, held_out, n)}


def main() -> None:
    name, answers = sys.argv[1], sys.stdout
    peer, x = None, torch.empty(0)
    with contextlib.redirect_stdout(sys.stderr):  # the libraries print
        for line in sys.stdin:
            ask = json.loads(line)
            if ask["do"] == "open":
                torch.manual_seed(0)
                x = torch.randn(ask["batch"], ask["d_model"]) * torch.logspace(0, -1, ask["d_model"])
                x = x / x.norm(dim=1, keepdim=True)
                peer = PEERS[name](ask["d_model"], ask["n_latents"], ask["k"], 1e-4, 1000, ask["batch"])
                peer.start(x)
                answer: dict[str, Any] = {"torch": torch.__version__}
            elif ask["do"] == "step":
                answer = {"seconds": time_steps(peer, x, 1)}
            else:
                answer = train(name, ask)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
