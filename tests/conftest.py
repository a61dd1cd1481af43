"""Shapes in signatures are checked at run time, here and nowhere else; and what several folders of tests share.

That is: tiny, randomly initialised subject models of several architectures, and a text for them; nothing is downloaded.
"""

import contextlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Workers side by side share the cores: with a team of threads each they would wait for one another most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton's kernels are tested on the CPU, through its interpreter; it asks when it is first imported, by torch perhaps.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from rich.console import Console

import checked_shapes

checked_shapes.install("monosem")

VOCABULARY = 64
LAYERS = 3
WIDTH = 16
CONTEXT = 64


def _config(architecture: str, n_layers: int) -> Any:
    import transformers as hf

    modern: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    without_groups = {key: value for key, value in modern.items() if key != "num_key_value_heads"}
    match architecture:
        case "gpt2":
            return hf.GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=WIDTH,
                n_layer=n_layers,
                n_head=2,
                n_positions=CONTEXT,
                bos_token_id=1,
                eos_token_id=2,
            )
        case "gpt_neox":
            return hf.GPTNeoXConfig(**without_groups)
        case "llama":
            return hf.LlamaConfig(**modern)
        case "mistral":
            return hf.MistralConfig(**modern, sliding_window=4)
        case "qwen2":
            return hf.Qwen2Config(**modern)
        case "gemma2":
            return hf.Gemma2Config(**modern, head_dim=8, sliding_window=4, query_pre_attn_scalar=8)
        case "opt":
            del without_groups["intermediate_size"]
            return hf.OPTConfig(**without_groups, ffn_dim=24, word_embed_proj_dim=WIDTH)
    raise AssertionError(architecture)


def _make_model(architecture: str = "gpt2", n_layers: int = LAYERS) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(architecture, n_layers)).eval()
        for parameter in model.parameters():  # the usual tiny start would leave the blocks next to no effect
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def _make_tokenizer(adds_bos: bool = False) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{index}" for index in range(VOCABULARY - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture
def console() -> Console:
    """Writes to a string: see ``shown``."""
    return Console(file=io.StringIO(), width=80)


@pytest.fixture
def shown(console: Console) -> Callable[[], str]:
    """All that was shown so far."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Makes a random model: ``make_model("llama", n_layers=3)``."""
    return _make_model


@pytest.fixture
def make_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer of words w0 … w59: ``make_tokenizer(adds_bos=True)`` puts ``<s>`` in front by itself."""
    return _make_tokenizer


@pytest.fixture
def save_subject(tmp_path: Path) -> Callable[..., Path]:
    """Saves a random model with its tokenizer and gives the directory: ``save_subject("opt", adds_bos=True)``."""

    def save(architecture: str = "gpt2", adds_bos: bool = False) -> Path:
        directory = tmp_path / architecture
        _make_model(architecture).save_pretrained(directory)
        _make_tokenizer(adds_bos).save_pretrained(directory)
        return directory

    return save


@pytest.fixture
def tokens() -> torch.Tensor:
    """Five blocks of seven random tokens, none of them special."""
    return torch.randint(4, VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tiny_subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a GPT-2 of three blocks, 16 wide, that knows the words w0 … w59."""
    directory = tmp_path_factory.mktemp("subject") / "tiny"
    _make_model().save_pretrained(directory)
    _make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of 40 documents of 150 words that the tiny subject knows."""
    directory = tmp_path_factory.mktemp("text")
    generator = torch.Generator().manual_seed(0)
    for number in range(40):
        words = torch.randint(0, VOCABULARY - 4, (150,), generator=generator).tolist()
        (directory / f"d{number:02d}.txt").write_text(" ".join(f"w{word}" for word in words))
    return directory


@pytest.fixture(autouse=True, scope="session")
def one_thread_for_all() -> None:
    """On tensors so small, threads do nothing but wait for each other: a hundred times longer on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def whole_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests of whole jobs run in: a token cache of their own; one thread in child processes too; no figures.

    Drawing the figures takes twice as long as all the rest of a tiny run.
    """
    from monosem.runs import compare, evaluate

    for module, name in (
        (evaluate, "firing_density_figure"),
        (evaluate, "training_figure"),
        (compare, "comparison_figure"),
    ):
        monkeypatch.setattr(module, name, lambda _, path: path.touch())
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "token_cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class StubEndpoint:
    """Stands for a server with a language model, at an address of this machine; a test says what it answers."""

    answer: Callable[[str], Any]
    """Of a prompt: what the model says; or the bytes of a whole response, or pieces of one that is longer, or a status.
    By default as one would who knows a latent by the tokens that it is shown to fire on."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer = perfect_answer
        self.more_headers: dict[str, str] = {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(request)
                endpoint.keys.append(self.headers["Authorization"])
                answer = endpoint.answer(endpoint.prompts[-1])
                self.send_response(answer if isinstance(answer, int) else 200)
                pieces = [endpoint.body(answer)] if isinstance(answer, str | bytes | int) else answer
                length = len(pieces[0]) if isinstance(pieces, list) else 10**6
                headers = {"Content-Type": "application/json", "Content-Length": str(length), "Connection": "close"}
                for name, value in (headers | endpoint.more_headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked may have gone
                    for piece in pieces:
                        self.wfile.write(piece)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]

    def body(self, answer: Any) -> bytes:
        if isinstance(answer, bytes):
            return answer
        if isinstance(answer, int):
            return json.dumps({"error": {"message": f"refused, {self.keys[-1]}"}}).encode()
        message = {"role": "assistant", "content": answer}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        return json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage}).encode()


def perfect_answer(prompt: str) -> str:
    """Explains a latent by the tokens that it fires on where it is shown, and finds these tokens again."""
    if shown := re.findall(r"«(\S+)»\d", prompt):
        return json.dumps({"explanation": "It fires on " + " ".join(sorted(set(shown)))})
    (sentence,) = re.findall(r"It fires on (.*)", prompt)
    lines = re.findall(r"^(\d+)\. (\S+)$", prompt, re.MULTILINE)
    return json.dumps({"active": [int(number) for number, token in lines if token in sentence.split()]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Generator[StubEndpoint]:
    """A language model's stand-in, and no key in the environment, nor a proxy between."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
    stub = StubEndpoint()
    stub.thread.start()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()
    stub.thread.join()
