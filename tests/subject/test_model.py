"""The subject model against its own hidden states, in seven architectures, bit for bit."""

import dataclasses
import http.server
import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.subject import builtin, loading
from monosem.subject.loading import choose_bos, load_subject, resolve_device, resolve_dtype, weights_checksum
from monosem.subject.model import SubjectConfig, SubjectModel

ARCHITECTURES = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "gemma2", "opt"]
BLOCKS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
FINAL_NORM = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
}
LAYERS = 3

Make = Callable[..., Any]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def subject(architecture: str, make_model: Make, make_tokenizer: Make) -> SubjectModel:
    return SubjectModel(model=make_model(architecture), tokenizer=make_tokenizer(), name=architecture)


@pytest.fixture
def gpt2(make_model: Make, make_tokenizer: Make) -> SubjectModel:
    return SubjectModel(model=make_model("gpt2"), tokenizer=make_tokenizer(), name="gpt2")


def layers(subject: SubjectModel) -> list[str]:
    return [subject.layer_hookpoint(layer) for layer in range(subject.n_layers)]


def own_hidden_states(subject: SubjectModel, tokens: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return subject.model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states


def hooked(subject: SubjectModel, tokens: Tensor, path: str, hook: Callable[..., Any]) -> Tensor:
    """Logits of a plain forward pass with one plain hook."""
    handle = subject.model.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return subject.model(input_ids=tokens).logits
    finally:
        handle.remove()


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def n_hooks(subject: SubjectModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in subject.model.modules())


# Reading


def test_captured_layers_equal_the_models_own_hidden_states(subject: SubjectModel, tokens: Tensor) -> None:
    captured = subject.capture(tokens, layers(subject))
    states = own_hidden_states(subject, tokens)
    assert len(states) == LAYERS + 1
    for layer, hookpoint in enumerate(layers(subject)[:-1]):
        assert torch.equal(captured[hookpoint], states[layer + 1])


def test_the_last_layer_is_the_last_blocks_output_before_the_final_norm(
    subject: SubjectModel, architecture: str, tokens: Tensor
) -> None:
    last = layers(subject)[-1]
    seen: list[Tensor] = []
    hooked(subject, tokens, last, lambda module, args, output: seen.append(first(output).clone()))
    captured = subject.capture(tokens, [last])[last]
    assert torch.equal(captured, seen[0])
    norm = subject.model.get_submodule(FINAL_NORM.get(architecture, "model.norm"))
    assert torch.equal(norm(captured), own_hidden_states(subject, tokens)[-1])


def test_captured_inputs_equal_the_hidden_states_before_the_blocks(subject: SubjectModel, tokens: Tensor) -> None:
    states = own_hidden_states(subject, tokens)
    inputs = [f"{hookpoint}:in" for hookpoint in layers(subject)]
    captured = subject.capture(tokens, inputs)
    for layer, hookpoint in enumerate(inputs):
        assert torch.equal(captured[hookpoint], states[layer])


def test_many_hookpoints_at_once_equal_one_at_a_time(subject: SubjectModel, architecture: str, tokens: Tensor) -> None:
    attention = {"gpt2": "attn", "gpt_neox": "attention"}.get(architecture, "self_attn")
    block = subject.layer_hookpoint(1)
    wanted = [f"{block}.{attention}:in", f"{block}.{attention}", block, f"{subject.layer_hookpoint(2)}:in", block]
    together = subject.capture(tokens, wanted)
    assert list(together) == wanted[:4]
    for hookpoint in wanted:
        assert torch.equal(together[hookpoint], subject.capture(tokens, [hookpoint])[hookpoint])
    assert n_hooks(subject) == 0


def test_the_pass_stops_after_the_last_hookpoint_needed(subject: SubjectModel, tokens: Tensor) -> None:
    ran: list[str] = []
    for path in (*layers(subject), "lm_head" if hasattr(subject.model, "lm_head") else "embed_out"):
        subject.model.get_submodule(path).register_forward_pre_hook(lambda module, args, path=path: ran.append(path))
    subject.capture(tokens, [subject.layer_hookpoint(0), f"{subject.layer_hookpoint(1)}:in"])
    assert ran == layers(subject)[:2]
    ran.clear()
    subject.capture(tokens, [subject.layer_hookpoint(2)])
    assert ran == layers(subject)


def test_blocks_run_in_batches_and_come_back_joined(gpt2: SubjectModel, tokens: Tensor) -> None:
    sizes: list[int] = []
    gpt2.model.transformer.h[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    small = SubjectModel(model=gpt2.model, tokenizer=gpt2.tokenizer, name="gpt2", subject_batch=2)
    hookpoint = gpt2.layer_hookpoint(1)
    batches = [gpt2.capture(part, [hookpoint])[hookpoint] for part in tokens.split(2)]
    sizes.clear()
    assert torch.equal(small.capture(tokens, [hookpoint])[hookpoint], torch.cat(batches))
    assert sizes == [2, 2, 1]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_passes_side_by_side_give_what_they_give_in_turn(
    subject: SubjectModel, tokens: Tensor, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hookpoints = [subject.layer_hookpoint(0), f"{subject.layer_hookpoint(2)}:in"]
    torch.set_num_threads(1)  # as each of the two has
    in_turn = [subject.capture(part, hookpoints) for part in tokens.split(1)]
    torch.set_num_threads(2)
    meeting, forward = threading.Barrier(2), SubjectModel._forward

    def meet(self: SubjectModel, tokens: Tensor) -> Any:
        if len(met) < 4:
            met.append(threading.get_ident())
            meeting.wait(10)
        return forward(self, tokens)

    met: list[int] = []
    monkeypatch.setattr(SubjectModel, "_forward", meet)
    found = dataclasses.replace(subject, subject_batch=1).capture(tokens, hookpoints)
    assert len(set(met)) == 2
    for hookpoint in hookpoints:
        assert torch.equal(found[hookpoint], torch.cat([each[hookpoint] for each in in_turn]))
    assert n_hooks(subject) == 0


def test_somebody_elses_hook_is_called_for_one_pass_after_the_other(
    gpt2: SubjectModel, tokens: Tensor, two_threads: None
) -> None:
    threads: list[int] = []

    def double(value: Tensor) -> Tensor:
        threads.append(threading.get_ident())
        return 2 * value

    hookpoint = gpt2.layer_hookpoint(1)
    plain = gpt2.capture(tokens, [hookpoint])[hookpoint]
    with gpt2.replace(hookpoint, double):
        found = dataclasses.replace(gpt2, subject_batch=1).capture(tokens, [hookpoint])[hookpoint]
    torch.testing.assert_close(found, 2 * plain)
    assert threads == [threading.get_ident()] * len(tokens)


def test_a_pass_that_fails_beside_another_leaves_no_hook(gpt2: SubjectModel, two_threads: None) -> None:
    tokens = torch.zeros(6, 5, dtype=torch.long)
    tokens[3] = 10_000
    with pytest.raises(IndexError):
        dataclasses.replace(gpt2, subject_batch=1).capture(tokens, [gpt2.layer_hookpoint(1)])
    assert n_hooks(gpt2) == 0 and torch.get_num_threads() == 2


def test_hookpoints_of_different_widths_come_from_one_pass(gpt2: SubjectModel, tokens: Tensor) -> None:
    captured = gpt2.capture(tokens.to(torch.int32), ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc"])
    assert {name: value.shape[-1] for name, value in captured.items()} == {
        "transformer.h.0.attn.c_attn": 48,
        "transformer.h.0.mlp.c_fc": 64,
    }
    assert not any(value.requires_grad for value in captured.values())


def test_a_value_that_is_not_a_vector_for_each_token_is_refused(gpt2: SubjectModel, tokens: Tensor) -> None:
    with pytest.raises(UserError, match=r"transformer\.wpe holds a tensor \[1, 7, 16\] for tokens \[5, 7\]"):
        gpt2.capture(tokens, ["transformer.wpe"])
    with pytest.raises(UserError, match=r"transformer\.wte:in holds a tensor \[5, 7\] of int64"):
        gpt2.capture(tokens, ["transformer.wte:in"])
    with pytest.raises(UserError, match=r"Unknown hookpoint 'h\.1'.*Near matches: transformer\.h\.1"):
        gpt2.capture(tokens, ["h.1"])
    assert n_hooks(gpt2) == 0


# Layers and hookpoints


def test_layers_are_found_in_every_architecture(subject: SubjectModel, architecture: str) -> None:
    blocks = BLOCKS.get(architecture, "model.layers")
    assert layers(subject) == [f"{blocks}.{layer}" for layer in range(LAYERS)]
    assert (subject.n_layers, subject.d_model, subject.max_context_length) == (LAYERS, 16, 64)
    assert subject.hookpoints([f"{blocks}.*"]) == layers(subject)


@pytest.mark.parametrize(("n_layers", "expected"), [(1, 0), (2, 1), (3, 2), (4, 2), (6, 4), (12, 8)])
def test_the_default_layer_is_three_quarters_of_the_way(
    make_model: Make, make_tokenizer: Make, n_layers: int, expected: int
) -> None:
    assert expected == math.ceil(0.75 * n_layers) - 1
    subject = SubjectModel(model=make_model("gpt2", n_layers), tokenizer=make_tokenizer(), name="gpt2")
    assert subject.resolve(SubjectConfig()) == [f"transformer.h.{expected}"]


def test_a_layer_out_of_range_names_the_range(gpt2: SubjectModel) -> None:
    with pytest.raises(UserError, match=r"layer=3 is out of range; gpt2 has layers 0 … 2"):
        gpt2.resolve(SubjectConfig(layer=3))


def test_a_configuration_names_a_layer_or_hookpoints(gpt2: SubjectModel) -> None:
    assert gpt2.resolve(SubjectConfig(layer=0)) == ["transformer.h.0"]
    wanted = SubjectConfig(hookpoint=("transformer.h.*.mlp", "transformer.h.0:in"))
    assert gpt2.resolve(wanted) == ["transformer.h.0:in", *(f"transformer.h.{layer}.mlp" for layer in range(3))]


# Replacing


def test_replacing_with_the_identity_changes_no_bit_of_the_logits(subject: SubjectModel, tokens: Tensor) -> None:
    plain = subject.logits(tokens)
    for hookpoint in layers(subject):
        with subject.replace(hookpoint, lambda value: value), subject.replace(f"{hookpoint}:in", torch.clone):
            assert torch.equal(subject.logits(tokens), plain)
    assert n_hooks(subject) == 0


def test_replacing_at_some_positions_equals_a_hand_made_hook(subject: SubjectModel, tokens: Tensor) -> None:
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[1, 3] = where[4, 0] = True
    hookpoint = subject.layer_hookpoint(1)

    def by_hand(module: object, args: object, output: Any) -> Any:
        value = first(output).clone()
        value[1, 3] = value[4, 0] = 0
        return (value, *output[1:]) if isinstance(output, tuple) else value

    with subject.replace(hookpoint, torch.zeros_like, where):
        replaced = subject.logits(tokens)
        seen = subject.capture(tokens, [hookpoint])[hookpoint]
    assert torch.equal(replaced, hooked(subject, tokens, hookpoint, by_hand))
    assert torch.equal(seen == 0, where.unsqueeze(-1).expand_as(seen))


def test_a_replacement_shows_only_from_its_position_on(subject: SubjectModel, tokens: Tensor) -> None:
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[:, 4] = True
    plain = subject.logits(tokens)
    with subject.replace(subject.layer_hookpoint(0), torch.zeros_like, where):
        change = (subject.logits(tokens) - plain).abs().amax(-1)
    assert (change[:, :4] == 0).all()
    assert (change[:, 4:] > 0).all()


def test_replacing_a_blocks_input_equals_replacing_the_output_before_it(subject: SubjectModel, tokens: Tensor) -> None:
    with subject.replace(subject.layer_hookpoint(1), torch.neg):
        expected = subject.logits(tokens)
    with subject.replace(f"{subject.layer_hookpoint(2)}:in", torch.neg):
        assert torch.equal(subject.logits(tokens), expected)


def test_a_replacements_result_is_cast_to_the_subjects_dtype(gpt2: SubjectModel, tokens: Tensor) -> None:
    with gpt2.replace("transformer.h.1", torch.Tensor.double):
        replaced = gpt2.logits(tokens)
    assert torch.equal(replaced, gpt2.logits(tokens))


# Loading


def test_a_saved_subject_loads_with_the_same_logits(save_subject: Make, architecture: str, tokens: Tensor) -> None:
    from transformers import AutoModelForCausalLM

    directory = save_subject(architecture)
    subject = load_subject(SubjectConfig(subject=str(directory), device="cpu", subject_batch=3))
    assert (subject.name, subject.revision, subject.subject_batch) == (str(directory), weights_checksum(directory), 3)
    assert (subject.device, subject.dtype) == (torch.device("cpu"), torch.float32)
    usual = load_subject(SubjectConfig(subject=str(directory), device="cpu", context_length=32))
    assert usual.subject_batch == 32 * torch.get_num_threads()
    assert not subject.model.training
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(directory)(tokens).logits
    if architecture in ("gpt2", "gemma2"):  # their GELU is computed by the sigmoid
        torch.testing.assert_close(subject.logits(tokens), expected, rtol=0, atol=2e-6)
    else:
        assert torch.equal(subject.logits(tokens), expected)
    assert len(subject.tokenizer) == 64


def test_loading_prints_nothing_and_leaves_the_librarys_settings_alone(
    save_subject: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    directory = save_subject()
    capfd.readouterr()
    settings = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    load_subject(SubjectConfig(subject=str(directory), device="cpu"))
    assert capfd.readouterr() == ("", "")
    assert settings == (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())


def test_the_subject_loads_in_the_precision_asked_for(save_subject: Make, tokens: Tensor) -> None:
    subject = load_subject(SubjectConfig(subject=str(save_subject("llama")), device="cpu", dtype="bfloat16"))
    hookpoint = subject.layer_hookpoint()
    assert subject.capture(tokens, [hookpoint])[hookpoint].dtype == torch.bfloat16


@pytest.mark.parametrize(("adds_bos", "expected"), [(True, 1), (False, None)])
def test_bos_auto_follows_the_tokenizer(save_subject: Make, adds_bos: bool, expected: int | None) -> None:
    subject = load_subject(SubjectConfig(subject=str(save_subject("gpt2", adds_bos)), device="cpu"))
    assert subject.bos_id == expected


def test_bos_always_needs_a_bos_token(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    assert choose_bos(tokenizer, "always") == 1
    assert choose_bos(make_tokenizer(adds_bos=True), "never") is None
    tokenizer.bos_token = None
    assert choose_bos(tokenizer, "auto") is None
    with pytest.raises(UserError, match="bos=always, but the subject's tokenizer has no BOS token"):
        choose_bos(tokenizer, "always")


def test_blocks_longer_than_the_models_context_are_refused(save_subject: Make) -> None:
    with pytest.raises(UserError, match=r"context_length=65 exceeds the 64 tokens"):
        load_subject(SubjectConfig(subject=str(save_subject()), device="cpu", context_length=65))


def test_a_directory_without_a_model_names_what_is_missing(save_subject: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks config\.json and weights \(model\.safetensors.*\) and a tokenizer"):
        load_subject(SubjectConfig(subject=str(tmp_path), device="cpu"))
    directory = save_subject()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks weights .*\. Its weights are pickles, which are never read"):
        load_subject(SubjectConfig(subject=str(directory), device="cpu"))


def test_an_index_that_names_a_pickle_is_refused(save_subject: Make) -> None:
    directory = save_subject()
    (directory / "model.safetensors").rename(directory / "rest.safetensors")
    torch.save({"transformer.wte.weight": torch.zeros(64, 16)}, directory / "weights.bin")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "weights.bin"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names weights\.bin, which is no safetensors file"):
        load_subject(SubjectConfig(subject=str(directory), device="cpu"))


def test_a_truncated_weights_file_is_refused(save_subject: Make) -> None:
    directory = save_subject()
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"Could not load the subject model from .*gpt2: "):
        load_subject(SubjectConfig(subject=str(directory), device="cpu"))


def test_missing_weights_are_not_made_up(save_subject: Make) -> None:
    from safetensors.torch import load_file, save_file

    directory = save_subject()
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"incomplete: 1 tensors are missing, transformer\.h\.1\.ln_1\.weight among them"
    ):
        load_subject(SubjectConfig(subject=str(directory), device="cpu"))


def test_models_that_are_not_causal_are_refused(tmp_path: Path, make_tokenizer: Make) -> None:
    import transformers as hf

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    hf.BertForMaskedLM(hf.BertConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path / "bert")
    hf.ViTModel(hf.ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(tmp_path / "vit")
    for name in ("bert", "vit"):
        make_tokenizer().save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match=r"lets tokens see later ones, so it is not a causal language model"):
        load_subject(SubjectConfig(subject=str(tmp_path / "bert"), device="cpu"))
    with pytest.raises(UserError, match="its architecture is not a causal language model"):
        load_subject(SubjectConfig(subject=str(tmp_path / "vit"), device="cpu"))


def test_a_models_own_code_is_never_run(save_subject: Make) -> None:
    directory = save_subject()
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "mine.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(UserError, match="Could not load the subject model"):
        load_subject(SubjectConfig(subject=str(directory), device="cpu"))


def test_a_missing_builtin_subject_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "MODEL_DIRECTORY", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere lacks config\.json"):
        load_subject(SubjectConfig(device="cpu"))


def test_the_builtin_subject_is_loaded_from_its_directory(save_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "MODEL_DIRECTORY", save_subject())
    subject = load_subject(SubjectConfig(device="cpu", context_length=16))
    assert (subject.name, subject.n_layers) == ("builtin", 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="device=cuda is not available on this machine; use device=cpu or auto"):
        resolve_device("cuda")


def test_auto_precision_is_bfloat16_on_cuda_and_float32_elsewhere() -> None:
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("mps")) == torch.float32
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16


# The hub, out of reach or standing on this machine


def point_hub_at(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound" if "/revision/" in self.path else "RepoNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub_without_models() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_hub_id_without_network_is_refused_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"subject=openai/gpt2 is no directory, and the hub cannot be reached"):
        load_subject(SubjectConfig(subject="openai/gpt2", device="cpu"))
    assert time.monotonic() - start < 5


def test_a_hub_that_stays_silent_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "HUB_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        point_hub_at(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)
        start = time.monotonic()
        with pytest.raises(UserError, match="the hub cannot be reached"):
            load_subject(SubjectConfig(subject="openai/gpt2", device="cpu"))
    assert time.monotonic() - start < 5


def test_a_cached_hub_model_loads_without_network(
    save_subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: Tensor
) -> None:
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--me--tiny"
    shutil.copytree(save_subject(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    point_hub_at(monkeypatch, "http://127.0.0.1:1", tmp_path / "hub")
    subject = load_subject(SubjectConfig(subject="me/tiny", device="cpu"))
    assert (subject.name, subject.revision) == ("me/tiny", commit)
    assert subject.logits(tokens).shape == (5, 7, 64)


def test_an_unknown_hub_model_and_revision_are_named(
    hub_without_models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at(monkeypatch, hub_without_models, tmp_path)
    with pytest.raises(UserError, match="subject=me/nothing is neither a directory nor a model on the hub"):
        load_subject(SubjectConfig(subject="me/nothing", device="cpu"))
    with pytest.raises(UserError, match="revision=v9 does not exist for me/tiny on the hub"):
        load_subject(SubjectConfig(subject="me/tiny", revision="v9", device="cpu"))
    with pytest.raises(UserError, match=r"subject=\./runs/model is neither a directory nor a hub id; check the path"):
        load_subject(SubjectConfig(subject="./runs/model", device="cpu"))


# Configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": -1}, "layer=-1 is below 0"),
        ({"layer": 1, "hookpoint": ("h.1",)}, r"layer=1 and hookpoint=h\.1 exclude each other"),
        ({"context_length": 1}, "context_length=1 is below 2"),
        ({"subject_batch": 0}, "subject_batch=0 is below 1"),
        ({"revision": "v1"}, "revision=v1 is for models of the hub"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SubjectConfig(**settings)


def test_a_revision_of_a_directory_is_refused(save_subject: Make) -> None:
    with pytest.raises(UserError, match=r"revision=v1 is for models of the hub, and .* is a directory"):
        load_subject(SubjectConfig(subject=str(save_subject()), revision="v1", device="cpu"))
