"""One autoencoder's training run: its trainer, its directory, its log."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from monosem.config import to_dict
from monosem.runlog import Sink, open_sinks
from monosem.runs.config import RunConfig
from monosem.runs.directory import AUTOENCODER, CHECKPOINTS
from monosem.runs.held_out import HeldOutRows, curve_is_due, held_out_normalized_mse
from monosem.sae.site import Site
from monosem.sae.storage import save_autoencoder
from monosem.training.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from monosem.training.dead_latents import silence
from monosem.training.losses import EndToEndLoss
from monosem.training.step import StepReport
from monosem.training.trainer import Trainer


class HookpointRun(AbstractContextManager["HookpointRun"]):
    """Steps a trainer, logs the means of what its steps report, writes its checkpoints and the autoencoder."""

    def __init__(
        self,
        config: RunConfig,
        site: Site,
        trainer: Trainer,
        extent: Mapping[str, int],
        checkpoint: Checkpoint | None = None,
        held_out: HeldOutRows | None = None,
    ) -> None:
        """
        Args:
            extent: sizes of what feeds the run, for the checkpoints: it must not change under the run.
            checkpoint: what the trainer was restored from.
            held_out: what the held-out curve is measured on, if one is wanted.
        """
        self.config, self.site, self.trainer = config, site, trainer
        self._extent, self._held_out = extent, held_out
        log: dict[str, Any] = checkpoint.record["log"] if checkpoint else {"sums": {}, "last": {}}
        self._sums: dict[str, float] = log["sums"]  # over the steps since the last record
        self._last_record: dict[str, float | int] = log["last"]
        self._sinks: list[Sink] = open_sinks(config.log, config.out, to_dict(config), after_tokens=trainer.tokens)

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.close()

    def step(self, activations: Mapping[str, Float[Tensor, "batch _"]], end_to_end: EndToEndLoss | None = None) -> bool:
        """Train on a batch of activations by hookpoint; False if it was not finite and so was skipped."""
        target = None if self.site.target is None else self.site.wanted(activations)
        report = self.trainer.step(self.site.read(activations), target, end_to_end)
        if report is not None:
            self._add(report)
        if self._passed(self.config.log.log_every) or self.trainer.progress.batches == self.trainer.config.steps:
            self._log()
        return report is not None

    def _passed(self, every: int) -> bool:
        """Whether the last batch reached a multiple of so many tokens: a grid that no interruption shifts."""
        tokens = self.trainer.tokens
        return tokens // every > (tokens - self.trainer.config.batch_size) // every

    def _add(self, report: StepReport) -> None:
        summed = ("loss", "auxiliary_loss", "end_to_end_loss", "squared_error", "spread", "l0")
        for name, value in (("steps", 1), *((name, getattr(report, name)) for name in summed)):
            self._sums[name] = self._sums.get(name, 0) + value
        self._sums["dead_share"] = report.dead_share

    def _log(self) -> None:
        if not self._sums:
            return
        record = self._means()
        before = int(self._last_record.get("tokens", 0))
        budget = self.trainer.config.steps * self.trainer.config.batch_size
        if self._held_out is not None and curve_is_due(self.config.log, budget, before, self.trainer.tokens):
            averaged = self.trainer.averaged_autoencoder()
            record["held_out_normalized_mse"] = held_out_normalized_mse(averaged, self._held_out)
        self._last_record, self._sums = record, {}
        for sink in self._sinks:
            sink.log(self._last_record)

    def _means(self) -> dict[str, float | int]:
        sums = self._sums
        return {
            "tokens": self.trainer.tokens,
            "steps": self.trainer.progress.steps,
            "loss": sums["loss"] / sums["steps"],
            "auxiliary_loss": sums["auxiliary_loss"] / sums["steps"],
            **({"end_to_end_loss": sums["end_to_end_loss"] / sums["steps"]} if self._is_end_to_end else {}),
            "normalized_mse": sums["squared_error"] / sums["spread"],
            "l0": sums["l0"] / sums["steps"],
            "dead_share": sums["dead_share"],
            "learning_rate": self.trainer.learning_rate,
            **({"sparsity_coefficient": self.trainer.sparsity_coefficient} if self.trainer.sae.has_penalty else {}),
            "skipped_batches": self.trainer.progress.skipped,
        }

    @property
    def _is_end_to_end(self) -> bool:
        return self.trainer.config.end_to_end != "none"

    def _last_numbers(self) -> dict[str, float | int]:
        """Those last logged; before the first log, of the steps so far."""
        return self._last_record or (self._means() if self._sums else {})

    @property
    def last_normalized_mse(self) -> float | None:
        """The training batches' in the last log."""
        return self._last_numbers().get("normalized_mse")

    def news(self) -> list[str]:
        """The last logged numbers, for the live line."""
        record = self._last_numbers()
        if not record:
            return []
        return [f"nmse {record['normalized_mse']:.4f}", f"L0 {record['l0']:.1f}", f"dead {record['dead_share']:.1%}"]

    def checkpoint_due(self) -> bool:
        """Whether the last batch reached a multiple of ``checkpoint_every`` tokens."""
        return self._passed(self.trainer.config.checkpoint_every)

    def save_checkpoint(self) -> None:
        """Write a checkpoint."""
        log = {"sums": self._sums, "last": self._last_record}
        record = {**self.trainer.record(), "extent": dict(self._extent), "log": log}
        save_checkpoint(self.config.out / CHECKPOINTS, self.trainer.progress.batches, self.trainer.states(), record)

    def prune_checkpoints(self) -> None:
        """Remove the oldest checkpoints beyond those to keep."""
        prune_checkpoints(self.config.out / CHECKPOINTS, self.trainer.config.keep_checkpoints)

    def save_autoencoder(self) -> None:
        """Write the averaged weights as the run's autoencoder. The trainer's own weights are replaced by them."""
        trainer, sae = self.trainer, self.trainer.sae
        trainer.take_averaged_weights()
        sae.training_summary = {"tokens": trainer.tokens, "seed": trainer.config.seed}
        if self._last_record:
            told = ("loss", "l0", "dead_share", "sparsity_coefficient")
            sae.training_summary |= {name: self._last_record[name] for name in told if name in self._last_record}
        if trainer.progress.steps:
            trained = trainer.progress.steps * trainer.config.batch_size  # skipped batches are not counted as silence
            sae.training_summary |= silence(trainer.state.tokens_since_active, trained)._asdict()
        save_autoencoder(sae, self.config.out / AUTOENCODER)
