"""Train the bundled subject model, and its siblings, on the source text of the standard library.

    python scripts/train_builtin_subject.py train       # about an hour on two cores; interrupted, it goes on
    python scripts/train_builtin_subject.py card        # measure on held-out files, write the model card
    python scripts/train_builtin_subject.py siblings    # smaller models trained the same way, into subjects/

A GPT-2-architecture model of 5.9 M parameters. A sibling differs in width and depth alone: same text, same tokens, same
optimisers. Hidden matrices are trained with Muon, the rest with AdamW; bfloat16
autocast; the forward and backward pass compiled. On two AVX-512/AMX cores: 9,300 tokens/s.
"""

import argparse
import collections
import json
import lzma
import math
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from monosem.subject import builtin

VOCABULARY = 4096
CONTEXT = 512
BATCH_BLOCKS = 16
END_OF_TEXT = "<|endoftext|>"

Documents = list[tuple[str, str]]


class Shape(NamedTuple):
    """The size of a model."""

    width: int
    layers: int
    heads: int

    @property
    def name(self) -> str:
        """A sibling's directory."""
        return f"{self.width}x{self.layers}"

    @property
    def training_flops_per_token(self) -> int:
        """Forward and backward: 6 for every weight that is multiplied with (biases and position table aside, the
        unembedding included), 12 · layers · width · context for attention's own products."""
        multiplied = 12 * self.layers * self.width**2 + VOCABULARY * self.width
        return 6 * multiplied + 12 * self.layers * self.width * CONTEXT


BUNDLED = Shape(256, 6, 4)
SIBLINGS = (Shape(32, 2, 1), Shape(64, 3, 1), Shape(96, 4, 2), Shape(128, 4, 2))


def split_corpus() -> tuple[Documents, Documents]:
    """The library's documents: those for training, and those held out."""
    documents = list(builtin.library_documents())
    return (
        [document for document in documents if not builtin.is_held_out(document[0])],
        [document for document in documents if builtin.is_held_out(document[0])],
    )


def train_tokenizer(documents: Documents) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 4,096 tokens, learned from the training files alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for _, text in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, documents: Documents) -> np.ndarray:
    """All documents as one line of tokens, each preceded by the end-of-text token."""
    end_of_text = tokenizer.get_vocab()[END_OF_TEXT]
    pieces: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch([text for _, text in documents]):
        pieces.append(end_of_text)
        pieces.extend(encoding.ids)
    return np.array(pieces, dtype=np.int64)


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> GPT2LMHeadModel:
    end_of_text = tokenizer.get_vocab()[END_OF_TEXT]
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    return GPT2LMHeadModel(config)


def epoch_blocks(tokens: torch.Tensor, seed: int) -> torch.Tensor:
    """The epoch's starts of blocks, shuffled; every epoch starts its blocks at another offset."""
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(CONTEXT, (), generator=generator))
    starts = torch.arange(offset, len(tokens) - CONTEXT - 1, CONTEXT)
    return starts[torch.randperm(len(starts), generator=generator)]


def learning_rate_scale(step: int, steps: int) -> float:
    """Warm up over 3% of the run, hold, then fall linearly to zero over its last 40%."""
    return min(1.0, (step + 1) / (0.03 * steps), (steps - step) / (0.4 * steps))


def train(shape: Shape, total_tokens: int, work: Path, device: str, directory: Path) -> None:
    """Train for ``total_tokens`` and write the model; the state in ``work`` lets an interrupted run go on."""
    work.mkdir(parents=True, exist_ok=True)
    training, _ = split_corpus()
    torch.manual_seed(0)
    tokenizer = train_tokenizer(training)
    tokens = torch.from_numpy(tokenize(tokenizer, training))
    model: torch.nn.Module = new_model(tokenizer, shape).to(device)  # pyright: ignore[reportArgumentType] (transformers wraps .to)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    hidden_ids = {id(p) for p in hidden}
    others = [p for p in model.parameters() if id(p) not in hidden_ids]
    optimizers = [
        torch.optim.Muon(hidden, lr=6e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    @torch.compile
    def loss_of(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = model.lm_head(model.transformer(inputs, use_cache=False).last_hidden_state)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    step, state_file = 0, work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]
    per_step = BATCH_BLOCKS * CONTEXT
    steps, per_epoch = total_tokens // per_step, len(epoch_blocks(tokens, 0)) // BATCH_BLOCKS - 1
    started, first = time.time(), step
    while step < steps:
        epoch, within = divmod(step, per_epoch)
        starts = epoch_blocks(tokens, epoch)[within * BATCH_BLOCKS : (within + 1) * BATCH_BLOCKS]
        batch = torch.stack([tokens[start : start + CONTEXT + 1] for start in starts]).to(device)
        loss = loss_of(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_scale(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 100 == 0 or step == steps:
            rate = (step - first) * per_step / (time.time() - started)
            left = (steps - step) * per_step / rate / 60
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {rate:,.0f} tok/s  {left:.0f} min left", flush=True)
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
            torch.save(state, work / "state.tmp")
            (work / "state.tmp").replace(state_file)
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    summary = {
        "tokens": steps * per_step,
        "epochs": steps / per_epoch,
        "flops": steps * per_step * shape.training_flops_per_token,
        "python": platform.python_version(),
    }
    (directory / "training.json").write_text(json.dumps(summary, indent=2) + "\n")


def train_siblings(total_tokens: int, work: Path, device: str, directory: Path) -> None:
    """Train those that are missing, the smallest first."""
    for shape in SIBLINGS:
        if not (directory / shape.name / "training.json").exists():
            print(f"Sibling {shape.name}", flush=True)
            train(shape, total_tokens, work / shape.name, device, directory / shape.name)


def model_bits(model: GPT2LMHeadModel, tokens: np.ndarray, stride: int) -> float:
    """Total bits of ``tokens`` but the first, read in whole windows that move by ``stride``.

    The first window scores all its predictions, every later one its last ``stride``: each token is scored once, with at
    least ``CONTEXT - stride`` tokens before it but for those of the first window.
    """
    line = torch.from_numpy(tokens)
    starts = torch.arange(0, max(1, len(line) - 1 - CONTEXT + stride), stride)
    padded = F.pad(line, (0, int(starts[-1]) + CONTEXT + 1 - len(line)))
    total, scored = 0.0, 0
    with torch.no_grad():
        for some in starts.split(4):
            windows = torch.stack([padded[start : start + CONTEXT + 1] for start in some])
            places = some[:, None] + torch.arange(1, CONTEXT + 1)  # in the line, of what is predicted
            is_scored = (places > some[:, None] + CONTEXT - stride) | (some[:, None] == 0)
            is_scored &= places < len(line)
            logits = model(windows[:, :-1]).logits[is_scored].float()
            total += F.cross_entropy(logits, windows[:, 1:][is_scored], reduction="sum").item()
            scored += int(is_scored.sum())
    assert scored == len(line) - 1
    return total / math.log(2)


def unigram_bits(training: np.ndarray, held_out: np.ndarray) -> float:
    """Bits under token frequencies with one added to every count."""
    counts = np.bincount(training, minlength=VOCABULARY) + 1.0
    return float(-np.log2(counts / counts.sum())[held_out[1:]].sum())


def trigram_bits(training: np.ndarray, held_out: np.ndarray) -> float:
    """Bits under a token trigram model, each order interpolated with the one below it (Witten and Bell)."""
    orders = []
    for order in (2, 3):
        keys = np.zeros(len(training) - order + 1, dtype=np.int64)
        for position in range(order):
            keys = keys * VOCABULARY + training[position : len(training) - order + 1 + position]
        counts = collections.Counter(keys.tolist())
        totals: collections.Counter[int] = collections.Counter()
        kinds: collections.Counter[int] = collections.Counter()
        for key, count in counts.items():
            totals[key // VOCABULARY] += count
            kinds[key // VOCABULARY] += 1
        orders.append((counts, totals, kinds))
    unigram = np.bincount(training, minlength=VOCABULARY) + 1.0
    unigram /= unigram.sum()
    bits, line = 0.0, held_out.tolist()
    for i in range(1, len(line)):
        probability = float(unigram[line[i]])
        for order, (counts, totals, kinds) in zip((2, 3), orders, strict=True):
            if i < order - 1:
                continue
            context = 0
            for token in line[i - order + 1 : i]:
                context = context * VOCABULARY + token
            if totals[context]:
                weight = totals[context] + kinds[context]
                seen = counts[context * VOCABULARY + line[i]]
                probability = (seen + kinds[context] * probability) / weight
        bits -= math.log2(probability)
    return bits


CARD = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
---

# The bundled subject model

A GPT-2-architecture language model of {parameters:.1f} M parameters ({layers} layers, {width} wide, context {context},
byte-level BPE of {vocabulary:,} tokens), trained by `scripts/train_builtin_subject.py` on the source text of Python
{python}'s standard library: {tokens:.1f} M tokens, {epochs:.1f} epochs. About one file in ten, chosen by a hash of
its path, is held out: never trained on, and used for every evaluation.

Held-out text: {files} files, {bytes:,} bytes, {held_out_tokens:,} tokens. Bits per byte, all on the same bytes:

| predictor | bits per byte |
|---|---|
| this model, float16 weights, windows of {context} tokens moved by {stride} | **{model:.3f}** |
| this model, disjoint windows of {context} tokens | {model_disjoint:.3f} |
| `xz -9e` | {xz:.3f} |
| token trigram, Witten-Bell | {trigram:.3f} |
| token unigram | {unigram:.3f} |

Measured with `python scripts/train_builtin_subject.py card`.
"""


def card() -> None:
    """Measure the shipped weights on the held-out files and write the model card."""
    directory, stride = builtin.MODEL_DIRECTORY, 256
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    training, held_out = split_corpus()
    held_out_tokens = tokenize(tokenizer, held_out)
    text = "".join(text for _, text in held_out).encode()
    train_tokens = tokenize(tokenizer, training)
    summary = json.loads((directory / "training.json").read_text())
    figures = {
        "model": model_bits(model, held_out_tokens, stride) / len(text),
        "model_disjoint": model_bits(model, held_out_tokens, CONTEXT) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
        "trigram": trigram_bits(train_tokens, held_out_tokens) / len(text),
        "unigram": unigram_bits(train_tokens, held_out_tokens) / len(text),
    }
    filled = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=BUNDLED.layers,
        width=BUNDLED.width,
        context=CONTEXT,
        vocabulary=VOCABULARY,
        python=summary["python"],
        tokens=summary["tokens"] / 1e6,
        epochs=summary["epochs"],
        files=len(held_out),
        bytes=len(text),
        held_out_tokens=len(held_out_tokens),
        stride=stride,
        **figures,
    )
    (directory / "README.md").write_text(filled)
    print(filled)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("job", choices=["train", "card", "siblings"])
    parser.add_argument("--tokens", type=float, default=24e6)
    parser.add_argument(
        "--work", type=Path, default=Path("build/builtin_subject"), help="where an interrupted run waits"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.job == "train":
        train(BUNDLED, int(options.tokens), options.work, options.device, builtin.MODEL_DIRECTORY)
    elif options.job == "siblings":
        train_siblings(int(options.tokens), options.work, options.device, Path("subjects"))
    else:
        card()


if __name__ == "__main__":
    main()
