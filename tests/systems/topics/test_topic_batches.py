"""Batches of documents: batch normalisation needs two of them in each process."""

import re

import pytest

from rwkd_lightning.data.batching import BucketBatchSampler
from rwkd_lightning.systems.topics.datamodule import check_batches, check_meta_batch
from rwkd_lightning.utils.errors import UserError


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_a_batch_of_one_document_is_refused_and_nothing_else(processes):
    """Prevents: a crash of batch normalisation in the last batch of an epoch, hours after the teacher's training
    began.
    """

    def smallest(size):
        samplers = [
            BucketBatchSampler([0] * documents, size, 0, num_replicas=processes, rank=r) for r in range(processes)
        ]
        return min(len(batch) for sampler in samplers for batch in sampler)

    for documents in (11, 24, 25, 26, 30):
        for size in range(1, 14):
            try:
                check_batches(documents, size, processes=processes)
                assert smallest(size) > 1
            except UserError as error:
                assert smallest(size) == 1
                found = re.search(r"use data\.batch_size=(\d+)", str(error))
                assert found and smallest(int(found[1])) > 1


@pytest.mark.parametrize(("size", "processes", "instead"), [(1, 1, 2), (2, 2, 4), (4, 4, 8), (1, 3, 6)])
def test_a_held_out_document_alone_is_refused(size, processes, instead):
    """Prevents: a crash in the first meta step."""
    with pytest.raises(UserError, match=f"use meta.batch_size={instead}$"):
        check_meta_batch(size, processes)
    check_meta_batch(instead, processes)
    check_meta_batch(3, 2)  # cannot be dealt evenly: each process sees all three
