"""Train the bundled recogniser of speech (imagen_model/conditioning/audio.py) on synthetic speech.

    imagen data emoji --out data/emoji-32 --resolution 32
    python tools/train_speech_encoder.py --data data/emoji-32 --out runs/speech --bundle

Every caption and keyword of the training split is spoken by espeak-ng in many voices (kept under
data/speech as log-mel), and the recogniser learns their phonemes. Stopped, it goes on where it last
wrote. `--bundle` writes the weights that the package ships. Run once by a maintainer.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagen_model.conditioning.audio import (
    HOP_SEC,
    NUM_MELS,
    SPEECH_FILE,
    PhonemeRecognizer,
    batch,
    levelled,
    mel_power,
    trimmed,
)
from imagen_model.conditioning.lexicon import Entry, Lexicon
from imagen_model.conditioning.minilm import text_encoder
from imagen_model.data.espeak import HELD_OUT_VOICES, VOICES, Voice, espeak, varied
from imagen_model.data.folder import read_items
from imagen_model.storage.files import sha256_of, write_atomically
from imagen_model.storage.int8 import quantized

TAKES = {"caption": 8, "keyword": 3, "tone": 1}  # how often each text is spoken
P_ARTICLE = 0.25  # "a red apple" is to mean "red apple"
GROUP = 16  # batches sorted by length together
# Nats that an entry of the lexicon has to be better by; chosen on voices of the training.
COSTS = {"caption": 6.0, "article": 6.0, "keyword": 8.0, "word": 12.0, "common": 16.0}
FIRST_WORD = 1996  # in MiniLM's vocabulary: "the"
COMMON_WORDS = 10_000
WARM_UP = 50  # steps
FLOOR = 1e-12


@dataclass
class Corpus:
    """Clips end to end: clip i says said[i], its log power is flat[start[i]:][:length[i]]."""

    said: list[str]
    flat: Tensor  # fp16 [frames, NUM_MELS]
    start: Tensor
    length: Tensor

    def power(self, i: int) -> Tensor:
        begin, count = int(self.start[i]), int(self.length[i])
        return self.flat[begin : begin + count].float().exp()


def texts_of(data: Path) -> dict[str, str]:
    """Every text of the training split that can be spoken -> caption, keyword or tone."""
    samples = read_items(data, split="train")
    plain = [s for s in samples if s.hexcode == s.base]
    kinds: dict[str, str] = {}
    for s in plain:
        kinds[s.text] = "caption"
    for s in plain:
        for word in s.keywords:
            kinds.setdefault(word, "keyword")
    for s in samples:
        if s.text.count("skin tone") < 2:
            kinds.setdefault(s.text, "tone")
    return {t: k for t, k in kinds.items() if any(c.isascii() and c.isalnum() for c in t)}


def synthesise(kinds: dict[str, str], folder: Path, seed: int) -> Corpus:
    """What `kinds` says, spoken; one file a voice, which a later run takes as it is."""
    chance = random.Random(seed)
    texts = list(kinds)
    takes: dict[str, list[tuple[int, str]]] = {name: [] for name in VOICES}
    for i, text in enumerate(texts):
        for name in chance.sample(VOICES, TAKES[kinds[text]]):
            article = kinds[text] == "caption" and chance.random() < P_ARTICLE
            takes[name].append((i, f"a {text}" if article else text))
    parts = []
    for name, spoken in takes.items():
        key = hashlib.sha256(repr((seed, name, spoken)).encode()).hexdigest()[:16]
        path = folder / f"{name}-{key}.safetensors"
        if not path.is_file():
            write_atomically(path, lambda new, n=name, s=spoken: save_file(_said(n, s), new))
            print(f"{path}  {len(spoken)} clips", flush=True)
        parts.append(load_file(path))
    length = torch.cat([part["length"] for part in parts])
    return Corpus(
        [text for spoken in takes.values() for _, text in spoken],
        torch.cat([part["flat"] for part in parts]),
        length.cumsum(0) - length,
        length,
    )


def _said(name: str, spoken: list[tuple[int, str]]) -> dict[str, Tensor]:
    chance = random.Random(name)
    rows = []
    for _, text in spoken:
        rows.append(heard(text, varied(name, chance)).clamp(min=FLOOR).log().half())
    return {
        "flat": torch.cat(rows),
        "length": torch.tensor([len(row) for row in rows]),
        "text": torch.tensor([i for i, _ in spoken]),
    }


def pronounced(text: str) -> str:
    """Phonemes, a letter each: IPA without stress, length and spaces."""
    return "".join(c for c in espeak().phonemes(text) if c not in " ː")


def heard(text: str, voice: Voice) -> Tensor:
    """[T, NUM_MELS] power of a text in a voice."""
    speaker = espeak()
    return trimmed(mel_power(speaker.say(text, voice)[0], speaker.sample_rate))


def resized(power: Tensor) -> Tensor:
    """Another tempo, another length of the vocal tract, and now and then quiet before and after."""
    tempo, tract = (torch.empty(2).uniform_(-1, 1) * torch.tensor([0.2, 0.1])).exp().tolist()
    size = (max(8, round(len(power) * tempo)), round(NUM_MELS * tract))
    power = F.interpolate(power[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    power = F.pad(power, (0, max(0, NUM_MELS - size[1])))[:, :NUM_MELS]
    if torch.rand(()) < 0.3:
        before, after = torch.randint(0, round(0.3 / HOP_SEC), (2,)).tolist()
        power = F.pad(power, (0, 0, before, after))
    return power


def disturbed(power: Tensor, mask: Tensor) -> Tensor:
    """Room, noise, colour and a narrow band, each for some rows of power [N, T, NUM_MELS]."""
    n = len(power)

    def some(p: float) -> Tensor:
        return (torch.rand(n, 1, 1) < p).float()

    def smooth(decibel: float) -> Tensor:  # [N, 1, NUM_MELS] random curves over frequency
        knots = decibel * torch.randn(n, 1, 6)
        return 10 ** (F.interpolate(knots, NUM_MELS, mode="linear") / 10)

    # a room: energy that dies away by 60 dB in 0.2 to 0.8 s, some dB under the direct sound
    steps = torch.arange(30) * HOP_SEC
    decay = 10 ** (-6 * steps / torch.empty(n, 1).uniform_(0.2, 0.8))
    decay *= (0.3 * torch.rand(n, 1)) * some(0.4)[:, :, 0]
    decay[:, 0] = 1
    tail = F.pad(power, (0, 0, 29, 0)).permute(2, 0, 1)  # [M, N, T + 29]
    power = F.conv1d(tail, decay.flip(1)[:, None], groups=n).permute(1, 2, 0)
    power = power * torch.lerp(torch.ones(()), smooth(4), some(0.7))
    snr = torch.empty(n, 1, 1).uniform_(5, 35)
    noise = smooth(6)
    noise = noise / noise.mean(dim=2, keepdim=True) * power.mean(dim=(1, 2), keepdim=True)
    grain = -torch.rand_like(power).clamp(min=1e-6).log()  # a noise's power is exponential
    power = power + some(0.6) * noise * grain * 10 ** (-snr / 10)
    band = torch.arange(NUM_MELS)
    narrow = (band > torch.randint(42, 56, (n, 1, 1))) | (band < torch.randint(0, 8, (n, 1, 1)))
    power = torch.where(narrow & some(0.25).bool(), power * 1e-5, power)
    return power * mask[:, :, None]


def lexicon_of(kinds: dict[str, str], phonemes: str) -> list[Entry]:
    """What can be heard: captions, keywords, their words, articles and common English words.

    Of words that sound alike the first stays.
    """
    texts = {t: COSTS[kind] for t, kind in kinds.items() if kind != "tone"}
    for tone in ("light", "medium-light", "medium", "medium-dark", "dark"):
        texts.setdefault(f"{tone} skin tone", COSTS["caption"])
    for word in ("a", "an", "the"):
        texts[word] = COSTS["article"]
    for text in list(texts):
        for word in re.findall(r"[^\s:,()“”]+", text):
            texts.setdefault(word, COSTS["word"])
    pieces = sorted(text_encoder().tokenizer.get_vocab().items(), key=lambda item: item[1])
    common = [
        w for w, i in pieces if i >= FIRST_WORD and w.isascii() and w.isalpha() and len(w) > 1
    ]
    for word in common[:COMMON_WORDS]:  # the vocabulary is sorted by how common a word is
        texts.setdefault(word, COSTS["common"])
    entries: dict[str, Entry] = {}
    for text, cost in texts.items():
        sounds = pronounced(text)
        if sounds and set(sounds) <= set(phonemes):
            entries.setdefault(sounds, Entry(text, sounds, cost))
    return list(entries.values())


class Trainer:
    """The recogniser and how it learns: CTC, the sum over all ways to place the phonemes."""

    def __init__(self, corpus: Corpus, args: argparse.Namespace) -> None:
        self.corpus, self.args = corpus, args
        torch.manual_seed(args.seed)
        sounds = [pronounced(text) for text in corpus.said]
        self.phonemes = "".join(sorted(set("".join(sounds))))
        self.labels = [torch.tensor([self.phonemes.index(c) + 1 for c in s]) for s in sounds]
        self.network = PhonemeRecognizer(len(self.phonemes))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step = 0

    def rows(self, step: int) -> Tensor:
        """The clips of a step: GROUP batches are drawn together and sorted by length."""
        size = self.args.batch
        chance = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step // GROUP)
        drawn = torch.randint(len(self.corpus.said), (size * GROUP,), generator=chance)
        drawn = drawn[self.corpus.length[drawn].argsort()].view(GROUP, size)
        return drawn[torch.randperm(GROUP, generator=chance)[step % GROUP]]

    def train_step(self) -> float:
        torch.manual_seed(self.args.seed * 1_000_003 + self.step)  # a resumed run draws the same
        index = self.rows(self.step).tolist()
        power, mask = batch([resized(self.corpus.power(i)) for i in index])
        heard, places = self.network(levelled(disturbed(power, mask)), mask)
        said = [self.labels[i] for i in index]
        loss = F.ctc_loss(
            heard.transpose(0, 1),
            torch.cat(said),
            places.sum(dim=1),
            torch.tensor([len(s) for s in said]),
            zero_infinity=True,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        warm, done = min(1.0, (self.step + 1) / WARM_UP), self.step / self.args.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(path, lambda new: torch.save(state, new))

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def recognised(network: PhonemeRecognizer, lexicon: Lexicon, texts: list[str]) -> dict[str, float]:
    """For each held-out voice, how many of the texts are heard word for word."""
    network.eval()
    result = {}
    for name in HELD_OUT_VOICES:
        chance = random.Random(name)
        right = 0
        for text in texts:
            mel, mask = batch([levelled(heard(text, varied(name, chance)))])
            right += plain(" ".join(lexicon.best(network(mel, mask)[0][0]))) == plain(text)
        result[name] = round(right / len(texts), 4)
    network.train()
    return {"mean": round(sum(result.values()) / len(result), 4)} | result


def plain(text: str) -> str:
    """Letters and digits alone: "keycap: 1" is said like "keycap 1"."""
    return "".join(c for c in text.lower() if c.isalnum())


def bundle(trainer: Trainer, lexicon: Lexicon, card: dict) -> None:
    """Write the file that the package ships, with its .sha256."""
    metadata = {
        "card": json.dumps(card, ensure_ascii=False),
        "phonemes": trainer.phonemes,
        "lexicon": json.dumps(lexicon.entries, ensure_ascii=False, separators=(",", ":")),
    }
    state = quantized(trainer.network.state_dict())
    write_atomically(SPEECH_FILE, lambda new: save_file(state, new, metadata=metadata))
    Path(f"{SPEECH_FILE}.sha256").write_text(sha256_of(SPEECH_FILE) + "\n")
    print(f"{SPEECH_FILE}  {SPEECH_FILE.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji-32"))
    parser.add_argument("--speech", type=Path, default=Path("data/speech"), help="spoken texts")
    parser.add_argument("--out", type=Path, default=Path("runs/speech"), help="what is resumed")
    parser.add_argument("--init", type=Path, help="begin with the network in this state file")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--stop", type=int, help="stop at this step (a trial)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--bundle", action="store_true", help="write the package's weights")
    args = parser.parse_args()

    kinds = texts_of(args.data)
    corpus = synthesise(kinds, args.speech, args.seed)
    hours = len(corpus.flat) * HOP_SEC / 3600
    print(f"{len(kinds)} texts, {len(corpus.said)} clips, {hours:.1f} h", flush=True)
    trainer = Trainer(corpus, args)
    print(len(trainer.phonemes), trainer.phonemes, flush=True)
    state = args.out / "state.pt"
    if state.is_file():
        trainer.restore(state)
    elif args.init:
        trainer.network.load_state_dict(torch.load(args.init, weights_only=True)["network"])
    started, spent = time.monotonic(), []
    while trainer.step < (args.stop or args.steps):
        spent.append(trainer.train_step())
        if trainer.step % 20 == 0:
            seconds = round(time.monotonic() - started)
            print(trainer.step, seconds, round(sum(spent) / len(spent), 4), flush=True)
            spent = []
        if trainer.step % args.save_every == 0:
            trainer.save(state)
    trainer.save(state)
    lexicon = Lexicon(trainer.phonemes, lexicon_of(kinds, trainer.phonemes))
    held = {s.text for s in read_items(args.data, split="test") if s.hexcode == s.base}
    texts = sorted(held & set(kinds))
    figures = recognised(trainer.network, lexicon, texts)
    print(len(texts), "texts,", len(lexicon.entries), "entries", json.dumps(figures), flush=True)
    if args.bundle:
        card = {
            "name": SPEECH_FILE.stem,
            "speech": "the speech is synthetic (espeak-ng)",
            "language": "English",
            "data": f"{len(corpus.said)} clips, {hours:.1f} h: the captions and keywords of the "
            "emoji set's training split",
            "voices": list(VOICES),
            "lexicon": len(lexicon.entries),
            "held_out_voices": figures,
            "held_out_texts": len(texts),
            "steps": trainer.step,
            "init": args.init.name if args.init else "",
            "batch": args.batch,
            "date": datetime.date.today().isoformat(),
        }
        bundle(trainer, lexicon, card)


if __name__ == "__main__":
    main()
