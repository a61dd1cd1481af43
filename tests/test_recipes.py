"""The named configurations are complete and are what their names promise."""

from pathlib import Path

from monosem import recipes
from monosem.config import load_toml, to_toml
from monosem.runs.config import RunConfig


def test_the_quickstart_is_the_bundled_subject_with_4096_latents_and_two_million_tokens(tmp_path: Path) -> None:
    config = recipes.quickstart(tmp_path)
    assert (config.subject.subject, config.text.text) == ("builtin", ("builtin",))
    assert (config.autoencoder.n_latents, config.autoencoder.k, config.training.tokens) == (4096, 32, 2_000_000)


def test_the_papers_gpt2_setting_reads_layer_8_in_blocks_of_64_with_large_batches(tmp_path: Path) -> None:
    config = recipes.paper_gpt2_small(tmp_path, ("text/",))
    assert (config.subject.layer, config.subject.context_length) == (8, 64)
    assert (config.training.batch_size, config.autoencoder.n_latents) == (131_072, 32_768)


def test_every_recipe_survives_its_own_file(tmp_path: Path) -> None:
    for config in (recipes.quickstart(tmp_path), recipes.paper_gpt2_small(tmp_path, ("text/",))):
        (tmp_path / "config.toml").write_text(to_toml(config))
        assert load_toml(RunConfig, tmp_path / "config.toml") == config
