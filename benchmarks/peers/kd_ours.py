"""Our rows of ``kd.py``: the stages that ``train.py`` goes through, the teacher's logits computed in an empty cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

import lightning
import torch
from hydra import compose, initialize_config_dir
from kd_job import BATCH, LENGTH, RATE, STUDENT, TEMPERATURE, WARMUP, Job

from rwkd_lightning.cache.store import Store
from rwkd_lightning.run.build import loop_of, meta_of, terms_of, trainer_of, weighting_of
from rwkd_lightning.run.distil import distil
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.system import module_of

CONF = Path(__file__).parents[2] / "conf"


def train(job: Job, weighting: str) -> None:
    """Train the job's student by this method."""
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "config",
            [
                "task=mrpc",
                "pair=mpnet_to_minilm",
                f"weighting={weighting}",
                f"weighting_name={weighting}",
                f"seed={job.seed}",
                f"pair.student.path={STUDENT}",
                "pair.teacher.epochs=0",
                "pair.teacher.precision=32-true",
                "trainer.accelerator=cpu",
                f"trainer.max_epochs={job.epochs}",
                f"data.batch_size={BATCH}",
                f"data.max_length={LENGTH}",
                f"optimizer.lr={RATE}",
                f"scheduler.warmup={WARMUP}",
                f"temperature={TEMPERATURE}",
            ],
        )
        config.data.path, config.pair.teacher.path, config.cache_dir = job.data_path, job.teacher_path, folder
        method, terms, options, store = weighting_of(config), terms_of(config), trainer_of(config), Store(Path(folder))
        around = Run(Path(folder), store, options, Stop(), torch.device("cpu"), config.checkpoint)
        teacher = stages.teacher_of(config, job.data, around)
        lightning.seed_everything(job.seed, verbose=False)
        with job.clock.running():
            logits = stages.logits(
                config, teacher, job.data, store, torch.device("cpu"), ["train"]
            )  # as many as the peers
            loaders = DistillationDataModule(
                job.data,
                job.tokenizer,
                max_length=LENGTH,
                batch_size=BATCH,
                seed=job.seed,
                meta_batch_size=config.meta.batch_size,
                teacher_logits=logits,
                store=store,
            )
            method.prepare({"labels": loaders.train_labels, **loaders.rows("train").extras})
            module = module_of(
                config,
                loaders,
                job.student,
                method,
                terms,
                None,
                train_size=loaders.train_size,
                meta=meta_of(config, method, loaders.meta_stream),
                **loop_of(config),
            )
            distil(config, Path(folder) / "run", module, loaders, options, Stop(), False, loaders.task.monitor)
