"""Loading a subject model: bundled, from a directory or from the hub; safetensors only, and no foreign code is run."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError

from monosem.errors import UserError
from monosem.files import checksum, file_checksum
from monosem.ops.memory import keep_freed_memory
from monosem.subject import builtin
from monosem.subject.model import SubjectConfig, SubjectModel

HUB_TIMEOUT = 10.0  # seconds

# What `transformers` and the libraries below it raise over files that are missing, damaged or not meant for it.
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, SafetensorError)


def load_subject(config: SubjectConfig) -> SubjectModel:
    """Load a causal language model and its tokenizer: bundled, from a directory, or from the hub.

    Only safetensors files are read, and no code that comes with a model is run.

    Raises:
        UserError: no such model, hub out of reach, files missing or damaged, not a causal language model, device not
            there, or blocks longer than the model's context.
    """
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    if device.type == "cpu":
        keep_freed_memory()  # the pages of a layer's values: a sixteenth of a pass
    place = _find(config)
    with _quiet():
        tokenizer, model = _load(place, dtype)
    subject = SubjectModel(
        model=model.to(device),
        tokenizer=tokenizer,
        name=config.subject,
        revision=place.commit or weights_checksum(Path(place.name)),
        bos_id=choose_bos(tokenizer, config.bos),
        subject_batch=config.subject_batch or _usual_batch(device, config.context_length),
    )
    limit = subject.max_context_length
    if limit is not None and config.context_length > limit:
        raise UserError(
            f"context_length={config.context_length} exceeds the {limit} tokens that {config.subject} sees; lower it."
        )
    _require_causal(subject)
    return subject


def _usual_batch(device: torch.device, context_length: int) -> int:
    """On a CPU a layer's values then stay near its caches, and little is held.

    Bundled subject, two threads: 4,096 tokens take 213 ms by 32 blocks of 64, 221 by 16, 224 by 64 or 8, 245 by 4.
    """
    tokens = 1024 * torch.get_num_threads() if device.type == "cpu" else 8192
    return max(1, tokens // context_length)


def weights_checksum(directory: Path) -> str:
    """What stands for a commit where there is none: the checksum of a directory's weights, 32 hex digits."""
    files = sorted(directory.glob("*.safetensors"))
    return checksum(" ".join(f"{file.name} {file_checksum(file)}" for file in files).encode())


def resolve_device(device: Literal["auto", "cpu", "cuda", "mps"]) -> torch.device:
    """The device that a setting means on this machine.

    Raises:
        UserError: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if device == "auto":
        return torch.device(next(name for name, is_available in available.items() if is_available()))
    if not available[device]():
        raise UserError(f"device={device} is not available on this machine; use device=cpu or auto.")
    return torch.device(device)


def resolve_dtype(dtype: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device) -> torch.dtype:
    """The precision that a setting means on a device."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def choose_bos(tokenizer: Any, bos: Literal["auto", "always", "never"]) -> int | None:
    """The BOS token to put in front of each block, or None.

    Raises:
        UserError: one is asked for and the tokenizer has none.
    """
    bos_id: int | None = tokenizer.bos_token_id
    if bos == "always" and bos_id is None:
        raise UserError("bos=always, but the subject's tokenizer has no BOS token; use bos=auto or never.")
    if bos == "auto" and bos_id is not None:
        with_special: list[int] = tokenizer.encode("a")
        without: list[int] = tokenizer.encode("a", add_special_tokens=False)
        return bos_id if with_special[:1] == [bos_id] != without[:1] else None
    return bos_id if bos == "always" else None


class _Place(NamedTuple):
    """Where a model's files are: a directory, or a hub id with its commit (and whether the local cache must do)."""

    name: str
    commit: str | None = None
    is_cached: bool = False


def _find(config: SubjectConfig) -> _Place:
    if config.subject == builtin.BUILTIN:
        return _directory(builtin.MODEL_DIRECTORY)
    path = Path(config.subject).expanduser()
    if not path.is_dir():
        return _on_hub(config.subject, config.revision)
    if config.revision is not None:
        raise UserError(
            f"revision={config.revision} is for models of the hub, and {path} is a directory; leave it out."
        )
    return _directory(path)


def _directory(path: Path) -> _Place:
    """A model's directory, checked for what it must hold, so that the error names all that is missing at once."""
    groups = {
        "config.json": ["config.json"],
        "weights (model.safetensors, or model.safetensors.index.json and its parts)": [
            "model.safetensors",
            "model.safetensors.index.json",
        ],
        "a tokenizer (tokenizer.json)": ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"],
    }
    missing = [what for what, names in groups.items() if not any((path / name).is_file() for name in names)]
    if missing:
        pickles = " Its weights are pickles, which are never read; save them as safetensors." * any(path.glob("*.bin"))
        raise UserError(f"The subject's directory {path} lacks {' and '.join(missing)}.{pickles}")
    return _Place(str(path))


def _on_hub(name: str, revision: str | None) -> _Place:
    """The commit that a hub id means now; without network, the one in the local cache.

    Asked with one short request: a plain load would retry every file for 23 s, in all more than a minute. A known
    commit also keeps ``transformers`` from asking the hub to convert a model that has only pickled weights.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _Place(name, HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha)
    except HFValidationError as error:
        raise UserError(f"subject={name} is neither a directory nor a hub id; check the path.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"subject={name} is neither a directory nor a model on the hub; check the name, or log in with "
            "'hf auth login' if it is private."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"revision={revision} does not exist for {name} on the hub; check the revision.") from error
    except Exception as error:  # which HTTP library is used, and so what it raises, is the hub client's own business
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return _Place(name, Path(cached).parent.name, is_cached=True)
        raise UserError(
            f"subject={name} is no directory, and the hub cannot be reached to look for it there; it is not in the "
            f"local cache either. Check the network, give a local directory, or use --subject builtin. ({error})"
        ) from error


def _load(place: _Place, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer and the model, on the CPU."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from monosem.subject.cpu_layers import use_faster_layers  # transformers is slow to import

    where: dict[str, Any] = {
        "revision": place.commit,
        "local_files_only": place.is_cached or place.commit is None,
        "trust_remote_code": False,
    }
    try:
        _refuse_pickles(place)
        tokenizer = AutoTokenizer.from_pretrained(place.name, **where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place.name, dtype=dtype, use_safetensors=True, weights_only=True, output_loading_info=True, **where
        )
    except UserError:
        raise
    except _LOADING_ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "for this kind of AutoModel" in reason:
            reason = "its architecture is not a causal language model"
        raise UserError(f"Could not load the subject model from {place.name}: {reason}") from error
    model, report = loaded
    if lacking := sorted(report["missing_keys"]):
        raise UserError(
            f"The weights in {place.name} are incomplete: {len(lacking)} tensors are missing, {lacking[0]} among them; "
            "get the files again."
        )
    use_faster_layers(model)
    return tokenizer, model


def _refuse_pickles(place: _Place) -> None:
    """Refuse the two ways in which a model's own files can still lead ``transformers`` to a pickle."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def read(name: str) -> dict[str, Any]:
        path = Path(place.name, name)
        if place.commit is not None:
            try:
                path = Path(hf_hub_download(place.name, name, revision=place.commit, local_files_only=place.is_cached))
            except EntryNotFoundError:
                return {}
        return json.loads(path.read_bytes()) if path.is_file() else {}

    named = {*read("model.safetensors.index.json").get("weight_map", {}).values()}
    named |= {name for name in [read("config.json").get("transformers_weights")] if name}
    for name in sorted(named):
        if not name.endswith((".safetensors", ".safetensors.index.json")):
            raise UserError(f"{place.name} names {name}, which is no safetensors file; only those are read.")


def _require_causal(subject: SubjectModel) -> None:
    """Refuse encoders that ``transformers`` dresses up as causal models: in them, later tokens change earlier ones."""
    first, second = subject.logits(torch.tensor([[0, 0], [0, 1]]))[:, 0].float()
    rounding = torch.finfo(subject.dtype).eps ** 0.5
    if (first - second).norm() > rounding * first.norm():
        raise UserError(
            f"{subject.name} ({type(subject.model).__name__}) lets tokens see later ones, so it is not a causal "
            "language model; choose one that is."
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the loading bars and notices of ``transformers`` off the terminal, and leave its settings as they were.

    The hub's own bars stay: a download can take minutes.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    verbosity, had_bars, had_hub_bars = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if had_hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
