"""Records whose text would do harm if it were taken for markup, or would mislead a reader if it were shown as it is."""

from typing import Any

HOSTILE = 3
"""The latent whose record this is."""
SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
OVERRIDE = "\u202egnp.exe"
LONG = "long" * 1500
TOKENS = (
    "<|endoftext|>",
    SCRIPT,
    IMAGE,
    OVERRIDE,
    "\x00",
    "\n\n\n",
    "\t",
    "\r",
    " " * 9,
    "\x1b[31m",
    "\u200b\u2066",
    "שלום",
    " مرحبا",
    "e\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301",
    "\u0301",
    "\ufeff",
    "👩\u200d🔬",
    "\ud800",
    "⟨0xE2⟩",
    "␣⏎",
    "\u00a0\u3000",
    "javascript:alert(3)",
    "'\"`&amp;",
    LONG,
    " end",
)
ACTIVE = tuple(range(1, len(TOKENS)))


def hostile(record: dict[str, Any]) -> dict[str, Any]:
    """The latent's record with such text everywhere that text can be."""
    ids = [0, *range(5000, 5000 + len(TOKENS) - 1)]
    activations = [[position, 0.9 - 0.03 * position] for position in ACTIVE]
    example = {
        "document": f"{SCRIPT}\u202e/x.py",
        "start": 0,
        "ids": ids,
        "texts": list(TOKENS),
        "position": 1,
        "value": activations[0][1],
        "activations": activations,
    }
    effects = [{"token": 5000 + i, "text": TOKENS[i + 1], "effect": 9.0 - i} for i in range(8)]
    return record | {
        "label": f"{SCRIPT}{OVERRIDE}",
        "largest": activations[0][1],
        "fires_on": [
            {"token": 5000 + i, "text": TOKENS[i + 1], "count": 9 - i, "mean": 0.4, "share": 0.1} for i in range(9)
        ],
        "promotes": effects,
        "suppresses": [each | {"effect": -each["effect"]} for each in effects],
        "examples": [example | {"band": -1, "rank": 0}, example | {"band": 4, "rank": 0}],
        "patterns": {
            "random": {
                "precision": 0.5,
                "recall": 0.5,
                "f1": 0.5,
                "patterns": [{"text": IMAGE, "tokens": [5001], "at_start": False, "activation": 0.5}],
            }
        },
        "explanation": {"text": f"{IMAGE} and {OVERRIDE}\x00", "precision": 0.5, "recall": None, "f1": None},
        "ablation": {"sparsity": 0.05, SCRIPT: 1},
    }
