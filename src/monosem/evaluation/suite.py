"""The parts of the full suite: each measures something else on the same autoencoder, subject and text."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple

import tyro
from jaxtyping import Bool
from torch import Tensor

from monosem.evaluation.ablation import AblationConfig, measure_ablation
from monosem.evaluation.geometry import GeometryConfig, measure_geometry
from monosem.evaluation.n2g.measure import N2GConfig, measure_n2g
from monosem.evaluation.n2g.trie import Explanation
from monosem.evaluation.probes import ProbeConfig, measure_probes
from monosem.evaluation.progress import Report
from monosem.evaluation.progressive import ProgressiveConfig, measure_progressive
from monosem.evaluation.refinement import RefinementConfig, measure_refinement
from monosem.evaluation.sample import Sample
from monosem.evaluation.tasks.sources import TaskConfig, find_tasks, read_tasks
from monosem.evaluation.words.config import WordsConfig
from monosem.evaluation.words.measure import measure_words
from monosem.evaluation.words.reply import Reply
from monosem.files import file_checksum
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel
from monosem.subject.text import TextConfig, fingerprint


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """How much each part of the full suite measures."""

    tasks: Annotated[TaskConfig, tyro.conf.arg(name="")] = field(default_factory=TaskConfig)
    probes: ProbeConfig = field(default_factory=ProbeConfig)
    n2g: N2GConfig = field(default_factory=N2GConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    progressive: ProgressiveConfig = field(default_factory=ProgressiveConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    words: WordsConfig = field(default_factory=WordsConfig)


class Material(NamedTuple):
    """What is measured, and on what."""

    sae: Autoencoder
    subject: SubjectModel
    site: Site
    sample: Sample
    """Of the held-out text."""
    alive: Bool[Tensor, " n_latents"]
    """Latents that fire in it."""


class Unfinished(NamedTuple):
    """What an interrupted measurement left, and where it leaves more: records of plain values."""

    found: Sequence[dict[str, Any]]
    keep: Callable[[dict[str, Any]], None]
    place: str
    """Where they are, for messages."""


class Part(NamedTuple):
    """One of the suite's measures."""

    title: str
    """For the progress line."""
    unit: str
    """Of what is reported there; empty where several kinds of work are added up."""
    version: int
    """Raised when what is measured changes, so that stored results are measured anew."""
    settings: tuple[str, ...]
    """The fields of ``SuiteConfig`` that it depends on."""
    measure: Callable[[Material, SuiteConfig, int, Report | None, Unfinished], dict[str, Any]]
    """Plain values, of material, settings, seed, a report of progress, and what an interrupted measurement left."""

    read: Callable[[SuiteConfig], Any] = lambda _: None
    """Plain values that tell whether what it reads besides material and settings has changed."""
    missing: Callable[[SuiteConfig], str | None] = lambda _: None
    """What it lacks by these settings; the part is then left out, and cannot be asked for."""

    def depends_on(self, config: SuiteConfig) -> dict[str, Any]:
        """All that a result depends on besides the material and the seed, as plain values."""
        settings = {name: asdict(getattr(config, name)) for name in self.settings}
        return {"version": self.version, "settings": settings, "read": self.read(config)}


def _tasks_content(config: SuiteConfig) -> list[Any]:
    """The texts that tasks are made of; of a data set of the hub its description."""
    sources = find_tasks(config.tasks)
    corpus = [fingerprint(TextConfig())] if sources.is_builtin else []
    return [
        corpus,
        [file_checksum(path) for path in sources.files],
        {name: asdict(t) for name, t in sources.hub.items()},
    ]


def _probes(material: Material, config: SuiteConfig, seed: int, report: Report | None, _: Unfinished) -> dict[str, Any]:
    sae, subject, site, sample = material[:4]
    length = sample.blocks.tokens.shape[1]
    pool = read_tasks(find_tasks(config.tasks), config.tasks, subject, context_length=length, seed=seed)
    return measure_probes(sae, subject, site, pool, config.probes, seed=seed, report=report).to_dict()


def _in_pieces(
    name: str,
    measure: Callable[..., Any],
    read: Callable[[dict[str, Any], str], Any],
    plain: Callable[[Any], dict[str, Any]],
) -> Callable[..., dict[str, Any]]:
    """A part that knows which latents are alive, and goes on from what an interrupted measurement left."""

    def measured(
        material: Material, config: SuiteConfig, seed: int, report: Report | None, unfinished: Unfinished
    ) -> dict[str, Any]:
        results = measure(
            *material[:4],
            getattr(config, name),
            alive=material.alive,
            seed=seed,
            explained=[read(each, unfinished.place) for each in unfinished.found],
            done=lambda piece: unfinished.keep(plain(piece)),
            report=report,
        )
        return results.to_dict()

    return measured


def _on_sample(name: str, measure: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A part that needs the sample alone."""

    def measured(
        material: Material, config: SuiteConfig, seed: int, report: Report | None, _: Unfinished
    ) -> dict[str, Any]:
        return measure(*material[:4], getattr(config, name), seed=seed, report=report).to_dict()

    return measured


PARTS: dict[str, Part] = {
    "probes": Part("Probes", "", 2, ("tasks", "probes"), _probes, _tasks_content),
    "n2g": Part(
        "N2G explanations", "", 2, ("n2g",), _in_pieces("n2g", measure_n2g, Explanation.from_dict, Explanation.to_dict)
    ),
    "ablation": Part("Ablation effects", "", 2, ("ablation",), _on_sample("ablation", measure_ablation)),
    "refinement": Part("Refined codes", "tokens", 1, ("refinement",), _on_sample("refinement", measure_refinement)),
    "progressive": Part(
        "Progressive codes", "tokens", 1, ("progressive",), _on_sample("progressive", measure_progressive)
    ),
    "geometry": Part("Geometry", "rows", 1, ("geometry",), _on_sample("geometry", measure_geometry)),
    "words": Part(
        "Explanations in words",
        "",
        1,
        (),
        _in_pieces("words", measure_words, Reply.from_dict, Reply._asdict),
        read=lambda config: config.words.measured,
        missing=lambda config: config.words.missing,
    ),
}
