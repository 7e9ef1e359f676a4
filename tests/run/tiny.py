"""A tiny BERT, a tiny tweet file and the overrides that make any run of both last seconds."""

from __future__ import annotations

import random
from pathlib import Path

import torch

WORDS = {
    "negative": ["bad", "sad", "awful", "poor"],
    "neutral": ["table", "chair", "door", "wall"],
    "positive": ["good", "happy", "great", "nice"],
}
SIZES = "task.load.sizes={teacher_train: 96, train: 64, meta: 24, validation: 24, test: 24}"


def write_tweets(path: Path) -> Path:
    """240 three-class texts that differ, in the columns of the real file."""
    draw = random.Random(0)
    rows, seen = ["sentiment,confidence,text"], set()
    while len(rows) < 241:
        label = draw.choice(sorted(WORDS))
        text = " ".join(
            draw.choice(WORDS[label] if draw.random() < 0.8 else ["the", "a", "is", "it"])
            for _ in range(draw.randint(4, 9))
        )
        if text not in seen:
            seen.add(text)
            rows.append(f"{label},1.0,{text}")
    path.write_text("\n".join(rows) + "\n", encoding="latin-1")
    return path


def write_backbone(folder: Path) -> Path:
    """A random two-block BERT with a word tokenizer, saved as a pre-trained model is."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "the",
        "a",
        "is",
        "it",
        *(w for group in WORDS.values() for w in group),
    ]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    return folder


def overrides(tweets: Path, backbone: Path, folder: Path) -> list[str]:
    """For `train.py`; cache and runs lie in the folder."""
    return [
        f"data.path={tweets}",
        f"pair.teacher.path={backbone}",
        f"pair.student.path={backbone}",
        "pair.student.layers=[1]",
        "pair.teacher.epochs=3",
        "pair.teacher.lr=3e-3",
        "optimizer.lr=3e-3",
        SIZES,
        "data.max_length=32",
        "data.batch_size=16",
        "meta.batch_size=8",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        f"cache_dir={folder / 'cache'}",
        f"runs_dir={folder / 'runs'}",
    ]
