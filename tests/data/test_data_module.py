import lightning
import pytest
import torch

from rwkd_lightning.data.datamodule import DistillationDataModule
from rwkd_lightning.errors import UserError


def test_batches_carry_the_right_rows(make_data, tokenizer):
    """Prevents that probes or logits land on other rows or splits than they are reported for."""
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
    assert torch.equal(meta["teacher_logits"], logits["meta"])


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
