"""The byte-level BPE of a model that begins from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rwkd_lightning.cache.store import Store
from rwkd_lightning.systems.summaries.data import Split
from rwkd_lightning.utils.errors import UserError

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


def trained_tokenizer(train: Split, vocabulary: int, longest: int, store: Store) -> Any:
    """A tokenizer trained on the documents and summaries of the training split, from the cache or trained now.

    Args:
        vocabulary: its tokens at most.
        longest: tokens of a text that a model takes.

    Raises:
        UserError: for a vocabulary that does not hold all bytes.
    """
    from transformers import PreTrainedTokenizerFast

    if vocabulary < 300:
        raise UserError(f"data.vocabulary is {vocabulary}; the 256 bytes need some room beside them: 300 or more")
    key = {"texts": train.fingerprint(), "vocabulary": vocabulary}

    def build(folder: Path) -> None:
        made = byte_pairs([*train.documents, *train.summaries], vocabulary)
        made.save(str(folder / "tokenizer.json"))

    folder = store.get("summary_tokenizer", key, build, about="summaries")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def byte_pairs(texts: Iterable[str], vocabulary: int) -> Any:
    """The tokenizer: a text is its tokens and the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, made.token_to_id(END))]
    )
    return made
