"""Phoneme probabilities -> words.

Viterbi search through a lexicon: every entry, a word or a phrase, is a chain of CTC states (Graves
et al. 2006). After an entry any other may begin at its cost (token passing, Young et al. 1989). All
chains advance together, one frame at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..progress import OnProgress

REPORT_EVERY = 16  # frames between calls of `progress`
NEVER = float("-inf")


class Entry(NamedTuple):
    text: str
    phonemes: str  # one character each
    cost: float  # nats by which it must fit better than no entry


class Lexicon:
    """Entries as one concatenated chain of S states: p1 blank p2 blank ... pn, then the next."""

    def __init__(self, phonemes: str, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        number = {phoneme: i + 1 for i, phoneme in enumerate(phonemes)}
        label: list[int] = []  # 0 is the blank
        first, last = [], []
        for entry in self.entries:
            first.append(len(label))
            for phoneme in entry.phonemes:
                label += [number[phoneme], 0]
            label.pop()
            last.append(len(label) - 1)
        self.label = torch.tensor(label)  # [S]
        self.first, self.last = torch.tensor(first), torch.tensor(last)  # [E]
        self.cost = torch.tensor([entry.cost for entry in self.entries])  # [E]
        place = torch.arange(len(label)) - self.first.repeat_interleave(self.last - self.first + 1)
        repeated = self.label == self.label.roll(2)  # a repeated phoneme needs the blank between
        self.step = torch.where(place >= 1, 0.0, NEVER)  # from the previous state
        self.skip = torch.where((place >= 2) & (self.label > 0) & ~repeated, 0.0, NEVER)

    def best(
        self, log_probs: Tensor, *, free: bool = False, progress: OnProgress | None = None
    ) -> list[str]:
        """log_probs [L, 1 + P], blank first -> texts of the likeliest entries, each at its cost or
        `free`. `progress` counts frames."""
        cost = torch.zeros_like(self.cost) if free else self.cost
        n = len(self.label)
        # For each state, the score of the best path that is in it now, and the frame at which that
        # path entered the entry. Two paddings come before the first state.
        score, begun = torch.full((2 + n,), NEVER), torch.zeros(2 + n, dtype=torch.int32)
        between = 0.0  # score of the best path that is in no entry
        trace: list[tuple[int, int] | None] = []  # by frame: the entry that ended, and its start
        for frame, emission in enumerate(log_probs):
            if progress is not None and frame % REPORT_EVERY == 0:
                progress(frame, len(log_probs))
            step, skip = score[1:-1] + self.step, score[:-2] + self.skip
            came = torch.where(step > score[2:], begun[1:-1], begun[2:])
            stepped = torch.maximum(step, score[2:])
            came = torch.where(skip > stepped, begun[:-2], came)
            now = torch.maximum(skip, stepped)
            entering = between - cost
            enters = entering > now[self.first]
            now[self.first] = torch.where(enters, entering, now[self.first])
            came[self.first] = torch.where(enters, frame, came[self.first])
            score[2:], begun[2:] = now + emission[self.label], came
            ended, entry = score[2 + self.last].max(dim=0)
            between += float(emission[0])
            trace.append(None)
            if float(ended) > between:
                between = float(ended)
                trace[-1] = (int(entry), int(came[self.last[entry]]))
        texts: list[str] = []
        frame = len(trace) - 1
        while frame >= 0:
            ending = trace[frame]
            if ending is not None:
                texts.append(self.entries[ending[0]].text)
                frame = ending[1]
            frame -= 1
        return texts[::-1]
