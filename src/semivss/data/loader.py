"""A recipe's data sections in, training batches out: a labelled and an unlabelled stream, the same for any number of workers.

A micro-batch is one forward pass; step s with accumulation a holds the micro-batches s*a .. s*a + a-1. `samples.py` makes one.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Generic

import cv2
from torch.utils.data import DataLoader

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.policy import DefectCounter
from semivss.data.samples import AnyBatch, LabelledSamples, Loaded, Samples, StoredLabels, UnlabelledSamples
from semivss.data.source import open_sources, open_unlabelled
from semivss.errors import SemivssError
from semivss.progress import say
from semivss.settings import Data, Semi, Train
from semivss.tensors import Batch, UnlabelledBatch


def tell_left_out(datasets: Sequence[VideoDataset]) -> None:
    """Say of each data set how many files its reader left out, before anything is learnt without them."""
    for dataset in datasets:
        if counter := DefectCounter(dataset.defects):
            first = next(iter(dataset.defects.values()))[0]
            say(f"{dataset.name}: left out before training: {counter}, such as {first}; all of them: semivss data check")


class Batches(Generic[AnyBatch]):
    """Micro-batches of one stream from a given step to the end of training, in order. Closes its workers when the loop ends.

    `defects` grows with the damaged files met in the batches handed out so far.
    """

    def __init__(self, samples: "Samples[AnyBatch]", first: int, last: int, workers: int) -> None:
        self.label_set: LabelSet = samples.datasets[0].label_set
        self.defects = DefectCounter()
        for dataset in samples.datasets:
            self.defects.add((kind, path) for kind, paths in dataset.defects.items() for path in paths)
        self._samples: Samples[AnyBatch] = samples
        self._range, self._workers = range(first, last), workers

    def __iter__(self) -> Iterator[AnyBatch]:
        loader: DataLoader[Loaded[AnyBatch]] = DataLoader(
            self._samples,
            batch_size=None,  # an item is a whole micro-batch already
            sampler=self._range,
            num_workers=self._workers,
            worker_init_fn=_prepare_worker if self._workers else None,
            prefetch_factor=2 if self._workers else None,
            # Forked workers are children of this very process and leave when it is killed; those of a fork server would stay for ever.
            multiprocessing_context="fork" if self._workers and sys.platform == "linux" else None,
        )
        for loaded in loader:
            if isinstance(loaded.outcome, SemivssError):
                raise loaded.outcome
            self.defects.add(loaded.defects)
            yield loaded.outcome


def labelled_batches(
    data: Data, train: Train, start_step: int = 0, rank: int = 0, world: int = 1, *, datasets: Sequence[VideoDataset] | None = None
) -> Batches[Batch]:
    """The labelled stream from `start_step` on: `train.batch / world` clips a micro-batch, the slice of process `rank`.

    Frames of a clip without a mask carry labels of 255. `datasets` saves opening the sources again.

    Raises:
        DataError: a source cannot be read or offers nothing to train on.
        RecipeError: the batch cannot be shared out evenly among the processes.
    """
    sources = open_sources(data.train, data.policy) if datasets is None else datasets
    return _batches(LabelledSamples(data, train, sources, rank, world), train, start_step, data.workers)


def unlabelled_batches(
    data: Data,
    train: Train,
    semi: Semi,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    *,
    datasets: Sequence[VideoDataset] | None = None,
    pseudo: Sequence[StoredLabels] | None = None,
) -> Batches[UnlabelledBatch]:
    """The unlabelled stream: as `labelled_batches` over `data.unlabelled`, `semi.unlabelled_batch` clips a micro-batch; no mask is opened.

    `pseudo`, one a source, adds the stored labels of the frames under the frames' own geometry.
    """
    sources = open_unlabelled(data.unlabelled, data.policy) if datasets is None else datasets
    own = train.model_copy(update={"batch": semi.unlabelled_batch})
    return _batches(UnlabelledSamples(data, own, sources, rank, world, semi, pseudo), own, start_step, data.workers)


def _batches(samples: "Samples[AnyBatch]", train: Train, start_step: int, workers: int) -> Batches[AnyBatch]:
    return Batches(samples, start_step * train.accumulate, train.steps * train.accumulate, workers)


def _prepare_worker(worker: int) -> None:
    """OpenCV's thread pool does not survive a fork; and signals are for the main process, which ends the workers itself."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
