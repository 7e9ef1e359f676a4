import copy
import multiprocessing
import time
from types import SimpleNamespace

import lightning
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from rwkd_lightning.cache.store import Store
from rwkd_lightning.data.batching import LengthSortedBatchSampler
from rwkd_lightning.systems.text.data import encoding
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError


def test_batches_carry_the_right_rows(make_data, tokenizer):
    """Prevents that corruptions or logits land on other rows or splits than they are reported for."""
    data = make_data()
    logits = {"train": torch.randn(45, 3), "meta": torch.randn(7, 3)}
    module = DistillationDataModule(
        data, tokenizer, batch_size=8, label_noise=0.2, teacher_noise=0.4, teacher_logits=logits
    )
    module.setup("fit")
    module.setup()
    clean = torch.tensor(data.splits["train"]["label"])
    flags = module.train_flags
    assert flags["label_flipped"].sum() == 9 and flags["teacher_corrupted"].sum() == 18
    assert torch.equal(module.train_labels != clean, flags["label_flipped"])
    assert module.train_size == 45 and module.train_idx.tolist() == list(range(100, 145))
    seen = []
    for batch in module.train_dataloader():
        index = batch["index"]
        seen += index.tolist()
        assert torch.equal(batch["labels"], module.train_labels[index])
        rolled = batch["teacher_corrupted"]
        expected = torch.where(rolled[:, None], logits["train"][index].roll(1, 1), logits["train"][index])
        assert torch.equal(batch["teacher_logits"], expected) and torch.equal(rolled, flags["teacher_corrupted"][index])
    assert sorted(seen) == list(range(45))
    for loader, split in (
        (module.val_dataloader(), "meta"),
        (module.evaluation_dataloader("validation"), "validation"),
    ):
        labels = torch.tensor(data.splits[split]["label"])
        for batch in loader:
            assert torch.equal(batch["labels"], labels[batch["index"]]) and "label_flipped" not in batch
    meta = next(module.meta_stream.all(7))
    assert torch.equal(meta["teacher_logits"], logits["meta"][meta["index"]])


def test_meta_noise_flips_the_meta_labels_alone(make_data, tokenizer):
    """Prevents a clean meta split that is reported as unclean, and noise in the labels that are scored or trained
    on.
    """
    data, logits = make_data(), {"train": torch.randn(45, 3), "meta": torch.randn(7, 3)}

    def built(**settings):
        return DistillationDataModule(data, tokenizer, batch_size=8, teacher_logits=logits, **settings)

    plain, noisy = built(label_noise=0.2), built(label_noise=0.2, meta_noise=0.4)
    meta, clean = next(noisy.meta_stream.all(7)), torch.tensor(data.splits["meta"]["label"])
    meta = {name: value[meta["index"].argsort()] for name, value in meta.items()}
    assert (meta["labels"] != clean).sum() == 3 and meta["labels"].min() >= 0 and meta["labels"].max() < 3
    assert torch.equal(meta["teacher_logits"], logits["meta"])
    for batch in noisy.val_dataloader():  # the split that a checkpoint is chosen by is the same
        assert torch.equal(batch["labels"], meta["labels"][batch["index"]])
    batch = next(plain.meta_stream.all(7))
    assert torch.equal(batch["labels"], clean[batch["index"]])
    assert torch.equal(noisy.train_labels, plain.train_labels)
    assert torch.equal(noisy.encoded("validation").labels, plain.encoded("validation").labels)
    with pytest.raises(UserError, match="data.meta_noise is 1.0"):
        built(meta_noise=1.0).setup()
    with pytest.raises(UserError, match="data.meta_noise=0.1 is refused for regression"):
        DistillationDataModule(make_data(None), tokenizer, meta_noise=0.1).setup()


def test_mistakes_are_named(make_data, tokenizer):
    """Prevents a run with settings that cannot mean what the user wanted."""
    data = make_data()
    for key, value in (("batch_size", 0), ("meta_batch_size", -1), ("seed", -1), ("num_workers", -1)):
        with pytest.raises(UserError, match=f"data.{key} is {value}"):
            DistillationDataModule(data, tokenizer, **{key: value})
    nan = torch.full((45, 3), float("nan"))
    for settings, words in (
        ({"teacher_logits": {"train": torch.zeros(44, 3)}}, r"\(44, 3\), not \(45, 3\)"),
        ({"teacher_logits": {"train": nan}}, "not finite in row 0"),
        ({"teacher_logits": {"train": torch.ones(45, 3, dtype=torch.long)}}, "have dtype torch.int64; give logits"),
        ({"teacher_logits": {"dev": nan}}, "'dev'"),
        ({"train_split": "dev"}, "'dev'"),
        ({"teacher_noise": 0.1}, "needs teacher logits"),
    ):
        with pytest.raises(UserError, match=words):
            DistillationDataModule(data, tokenizer, **settings)
    with pytest.raises(UserError, match="regression"):
        DistillationDataModule(make_data(None), tokenizer, label_noise=0.1).setup()
    with pytest.raises(UserError, match="no evaluation split"):
        DistillationDataModule(data, tokenizer).evaluation_dataloader("meta")


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).extend(batch["index"].tolist())
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, tmp_path, epochs, checkpoint=None):
    recorder = Recorder()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, datamodule=module, ckpt_path=checkpoint)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return recorder.seen


def test_trainer_reshuffles_each_epoch_and_resume_repeats_it(make_data, tokenizer, tmp_path):
    """Prevents the same order in each epoch: Lightning never calls set_epoch on a batch sampler itself."""
    data = make_data()
    whole = fit(DistillationDataModule(data, tokenizer, batch_size=8), tmp_path, epochs=2)
    assert sorted(whole[0]) == sorted(whole[1]) == list(range(45)) and whole[0] != whole[1]
    fit(DistillationDataModule(data, tokenizer, batch_size=8), tmp_path, epochs=1)
    resumed = fit(DistillationDataModule(data, tokenizer, batch_size=8), tmp_path, 2, tmp_path / "last.ckpt")
    assert resumed == {1: whole[1]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def tokenized(monkeypatch):
    """The splits that the tokenizer was called for."""
    names, real = [], encoding._tokenize

    def spy(dataset, tokenizer, text_columns, max_length, name, *how):
        names.append(name)
        return real(dataset, tokenizer, text_columns, max_length, name, *how)

    monkeypatch.setattr(encoding, "_tokenize", spy)
    return names


def test_kept_tokens_are_read_without_the_tokenizer(make_data, tokenizer, store, monkeypatch, caplog):
    """Prevents minutes of tokenizing in each run, other ids than those of text encoded anew, and cuts unheard of."""
    data = make_data(columns=("one", "two"))
    fresh = DistillationDataModule(data, tokenizer, max_length=12)
    first = DistillationDataModule(data, tokenizer, max_length=12, store=store)
    splits = ("teacher_train", "train", "meta", "validation")
    with caplog.at_level("INFO"):
        expected = [fresh.encoded(split) for split in splits]
        said = caplog.messages[:]
        caplog.clear()
        built = [first.encoded(split) for split in splits]
        assert caplog.messages == said and "train: " in said[0] and "% of 30 rows cut at max_length=12" in said[0]
        caplog.clear()
        monkeypatch.setattr(
            type(tokenizer), "__call__", lambda *args, **kwargs: pytest.fail("the tokenizer was called")
        )
        kept = [
            DistillationDataModule(make_data(columns=("one", "two")), tokenizer, max_length=12, store=store).encoded(
                split
            )
            for split in splits
        ]
        assert caplog.messages == said
    for rows in (built, kept):
        for got, wanted in zip(rows, expected, strict=True):
            assert got.tokens.keys() == wanted.tokens.keys() == {"input_ids", "token_type_ids"}
            assert all((got.tokens[key] == wanted.tokens[key]).all() for key in wanted.tokens)
            assert got.lengths.tolist() == wanted.lengths.tolist()


def test_kept_tokens_are_mapped_and_not_copied(make_data, tokenizer, store):
    """Prevents that each process and worker holds its own copy of the tokens."""
    data = make_data()
    DistillationDataModule(data, tokenizer, store=store).encoded("train")
    before = pa.total_allocated_bytes()
    rows = DistillationDataModule(data, tokenizer, store=store).encoded("train")
    assert pa.total_allocated_bytes() == before
    assert not any(flat.flags.owndata or flat.flags.writeable for flat in rows.tokens.values())


def change(tokenizer, how):
    other = copy.deepcopy(tokenizer)
    how(other)
    return other


@pytest.mark.parametrize(
    "how",
    [
        lambda t: t.add_tokens(["w1 w2"]),
        lambda t: setattr(t, "truncation_side", "left"),
        lambda t: setattr(t, "model_input_names", ["input_ids", "attention_mask"]),
        lambda t: setattr(t.backend_tokenizer, "post_processor", None),
    ],
    ids=["vocabulary", "truncation side", "no token types", "no special tokens"],
)
def test_another_tokenizer_encodes_anew(make_data, tokenizer, store, tokenized, how):
    """Prevents that a model is fed the token ids of another model's tokenizer."""
    data, other = make_data(), change(tokenizer, how)
    for used in (tokenizer, other):
        DistillationDataModule(data, used, max_length=5, store=store).encoded("train")
    assert tokenized == ["train", "train"]
    kept = DistillationDataModule(data, other, max_length=5, store=store).encoded("train").tokens
    fresh = DistillationDataModule(data, other, max_length=5).encoded("train").tokens
    assert tokenized == ["train"] * 3 and kept.keys() == fresh.keys()
    assert all((kept[key] == fresh[key]).all() for key in fresh)


def test_another_length_or_text_encodes_anew(make_data, tokenizer, store, tokenized):
    """Prevents that rows are cut at another length than the one in the config, or are those of other data."""
    for max_length in (12, 5):
        DistillationDataModule(make_data(), tokenizer, max_length=max_length, store=store).encoded("train")
    edited = make_data(change=lambda splits: splits["train"]["text"].__setitem__(3, "w1 w2 w3"))
    rows = DistillationDataModule(edited, tokenizer, max_length=12, store=store).encoded("train")
    assert tokenized == ["train"] * 3
    assert rows[3]["input_ids"].tolist() == tokenizer("w1 w2 w3")["input_ids"]


def test_the_tokenizer_is_the_same_after_use(make_data, tokenizer, store, tokenized):
    """Prevents a cache that never hits, since calls leave their padding and truncation in the tokenizer."""
    data, copied = make_data(), copy.deepcopy(tokenizer)
    DistillationDataModule(data, tokenizer, store=store).encoded("train")
    copied(["w1", "w1 w2"], padding=True, truncation=True, max_length=4)
    DistillationDataModule(data, copied, store=store).encoded("train")
    assert tokenized == ["train"]


def test_kept_tokens_still_check_the_length(make_data, tokenizer, store):
    """Prevents that a length the model cannot take goes unnoticed where its tokens are kept."""
    with pytest.raises(UserError, match="data.max_length is 129"):
        DistillationDataModule(make_data(), tokenizer, max_length=129, store=store).encoded("train")


def test_no_limit_is_named_where_there_is_none(make_data, tokenizer):
    """Prevents: "takes 3 to 1000000000000000019884624838656 tokens" of a tokenizer that knows no limit."""
    unlimited = copy.deepcopy(tokenizer)
    unlimited.model_max_length = int(1e30)
    with pytest.raises(UserError, match=r"data.max_length is 1; this tokenizer takes \d+ tokens or more$"):
        DistillationDataModule(make_data(), unlimited, max_length=1).encoded("train")


def test_a_slow_tokenizer_is_not_kept(make_data, tokenizer, store, tokenized, monkeypatch, caplog):
    """Prevents tokens kept under a key that does not tell the tokenizer."""
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with caplog.at_level("INFO"):
        for _ in range(2):
            DistillationDataModule(make_data(), tokenizer, store=store).encoded("train")
    assert tokenized == ["train"] * 2 and not store.root.exists() and "is a slow one" in caplog.text


def test_altered_tokens_are_refused(make_data, tokenizer, store):
    """Prevents training on text that a broken disk or another program changed."""
    DistillationDataModule(make_data(), tokenizer, store=store).encoded("train")
    (file,) = store.root.glob("tokens/*/tokens.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"tokens\.arrow is missing or was altered"):
        DistillationDataModule(make_data(), tokenizer, store=store).encoded("train")


def test_two_processes_tokenize_once(make_data, tokenizer, store, tmp_path, monkeypatch):
    """Prevents that two runs that start together overwrite each other's tokens, or that one of them fails."""
    data, real, calls = make_data(), encoding._tokenize, tmp_path / "calls"

    def slow(*args):
        with calls.open("a") as file:
            file.write("called\n")
        time.sleep(0.5)
        return real(*args)

    def work(number):
        rows = DistillationDataModule(data, tokenizer, store=store).encoded("train")
        (tmp_path / f"ids{number}").write_text(str(rows.tokens["input_ids"].tolist()))

    monkeypatch.setattr(encoding, "_tokenize", slow)
    processes = [multiprocessing.get_context("fork").Process(target=work, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0] and calls.read_text() == "called\n"
    assert (tmp_path / "ids0").read_text() == (tmp_path / "ids1").read_text() != ""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_kept_tokens(make_data, tokenizer, store, method):
    """Prevents that data.num_workers fails on mapped tokens, or gives other batches."""
    module = DistillationDataModule(make_data(), tokenizer, store=store, eval_batch_size=8)
    rows = module.encoded("train")
    sampler = LengthSortedBatchSampler(rows.lengths, 8)
    loader = DataLoader(
        rows, batch_sampler=sampler, collate_fn=module.collator, num_workers=2, multiprocessing_context=method
    )
    for got, wanted in zip(loader, module.dataloader("train"), strict=True):
        assert got.keys() == wanted.keys() and all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_long_splits_show_progress(make_data, tokenizer, monkeypatch, capsys):
    """Prevents minutes of silence, and a bar for each split of a few rows."""
    rows = make_data().splits["train"]
    encoding.encode(rows, tokenizer, ("text",), 12, "train")
    assert "tokenizing" not in capsys.readouterr().err
    monkeypatch.setattr(encoding, "_SHOW", 40)
    monkeypatch.setattr(bars, "drawn", lambda: True)  # in a log file a line comes after ten seconds
    encoding.encode(rows, tokenizer, ("text",), 12, "train")
    assert "tokenizing train" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_pinned_for_a_gpu_alone(make_data, tokenizer, device):
    """Prevents batches from memory that the device cannot copy while the host goes on, or pinned memory for nobody."""
    module = DistillationDataModule(make_data(), tokenizer, batch_size=8)
    assert not module.dataloader("meta").pin_memory  # without a Trainer
    strategy = SimpleNamespace(root_device=torch.device(device))
    module.trainer = SimpleNamespace(strategy=strategy, world_size=1, global_rank=0)
    assert [module.train_dataloader().pin_memory, module.val_dataloader().pin_memory] == [device == "cuda"] * 2
