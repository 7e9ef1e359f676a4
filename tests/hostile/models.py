"""A tiny random model with its tokenizer and a table of tweets, made once a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

WORDS = {
    "negative": ["bad", "sad", "awful"],
    "neutral": ["table", "chair", "door"],
    "positive": ["good", "happy", "great"],
}


def tokenizer() -> Any:
    """Nineteen words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(word for group in WORDS.values() for word in group),
        *(str(i) for i in range(6)),
    ]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


@cache
def backbone() -> Path:
    """A folder as ``save_pretrained`` writes it, with ``tweets.csv`` of 240 rows."""
    from transformers import BertConfig, BertModel

    folder = Path(tempfile.mkdtemp(prefix="hostile-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=19,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    names = sorted(WORDS)
    rows = [f"{names[i % 3]},1.0,{WORDS[names[i % 3]][i % 2]} number {i}" for i in range(240)]
    (folder / "tweets.csv").write_text("\n".join(["sentiment,confidence,text", *rows]) + "\n")
    return folder
