"""Train the bundled speech encoder (imagen_model/conditioning/audio.py) on synthetic speech.

    imagen data emoji --out data/emoji-32 --resolution 32
    python tools/train_speech_encoder.py --data data/emoji-32 --out runs/speech --steps 2000

Every caption and keyword of the training split is spoken by espeak-ng in many voices (kept under
data/speech as log-mel), and the encoder learns what MiniLM says of the words. Stopped, it goes on
where it last wrote. `--bundle` writes the weights that the package ships. Run by a maintainer.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_model.conditioning.audio import (
    HOP_SEC,
    NUM_MELS,
    SPEECH_FILE,
    AudioEncoder,
    batch,
    levelled,
    mel_power,
    trimmed,
)
from imagen_model.conditioning.condition import stretched
from imagen_model.conditioning.slots import NUM_SLOTS
from imagen_model.conditioning.text import text_encoder_hash
from imagen_model.data.captions import EncodedTexts, encode_all
from imagen_model.data.espeak import HELD_OUT_VOICES, VOICES, Voice, espeak, varied
from imagen_model.data.folder import read_samples
from imagen_model.files import quantized, sha256_of, write_atomically

TAKES = {"caption": 8, "keyword": 3, "tone": 1}  # how often each text is spoken
P_ARTICLE = 0.25  # "a red apple" is to mean "red apple"
GROUP = 16  # batches sorted by length together
WARM_UP = 100  # steps
FLOOR = 1e-12
SCALE_MAX = 100.0  # of the similarities in the softmax


@dataclass
class Corpus:
    """Clips end to end: clip i says text[i], its log power is flat[start[i]:][:length[i]]."""

    texts: list[str]
    flat: Tensor  # fp16 [frames, NUM_MELS]
    start: Tensor
    length: Tensor
    text: Tensor

    def power(self, i: int) -> Tensor:
        begin, count = int(self.start[i]), int(self.length[i])
        return self.flat[begin : begin + count].float().exp()


def texts_of(data: Path) -> dict[str, str]:
    """Every text of the training split that can be spoken -> caption, keyword or tone."""
    samples = read_samples(data, split="train")
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
        texts,
        torch.cat([part["flat"] for part in parts]),
        length.cumsum(0) - length,
        length,
        torch.cat([part["text"] for part in parts]),
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


class Trainer:
    """The encoder, what helps it learn, and the texts that it is to know."""

    def __init__(self, corpus: Corpus, args: argparse.Namespace) -> None:
        self.corpus, self.args = corpus, args
        torch.manual_seed(args.seed)
        kept = args.speech / "texts.safetensors"
        encoded = EncodedTexts.kept(kept, corpus.texts) or encode_all(corpus.texts)
        encoded.save(kept, corpus.texts)
        rows = encoded.rows(torch.arange(len(corpus.texts)), torch.zeros(len(corpus.texts), 0))
        count = rows.mask.sum(dim=1, keepdim=True)
        self.pooled = encoded.pooled
        self.tokens = stretched(rows, count, torch.full_like(count, NUM_SLOTS))  # [U, K, D]
        self.spread = float(self.tokens.var(dim=0).mean())
        sounds = [espeak().phonemes(t).replace(" ", "").replace("ː", "") for t in corpus.texts]
        letters = {c: i + 1 for i, c in enumerate(sorted(set("".join(sounds))))}
        self.phonemes = [torch.tensor([letters[c] for c in s], dtype=torch.long) for s in sounds]
        self.encoder = AudioEncoder()
        # Heads that only training needs: what sound each place is (CTC), how sharp the softmax.
        self.helper = nn.ModuleDict({"phonemes": nn.Linear(192, len(letters) + 1)})
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        parameters = [*self.encoder.parameters(), *self.helper.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step = 0

    def rows(self, step: int) -> Tensor:
        """The clips of a step: GROUP batches are drawn together and sorted by length."""
        size = self.args.batch
        chance = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step // GROUP)
        drawn = torch.randint(len(self.corpus.text), (size * GROUP,), generator=chance)
        drawn = drawn[self.corpus.length[drawn].argsort()].view(GROUP, size)
        return drawn[torch.randperm(GROUP, generator=chance)[step % GROUP]]

    def train_step(self) -> dict[str, float]:
        torch.manual_seed(self.args.seed * 1_000_003 + self.step)  # a resumed run draws the same
        index = self.rows(self.step).tolist()
        power, mask = batch([resized(self.corpus.power(i)) for i in index])
        text = self.corpus.text[index]
        frames, places = self.encoder.frames(levelled(disturbed(power, mask)), mask)
        tokens, pooled = self.encoder.slots(frames, places)
        scale = self.log_scale.exp().clamp(max=SCALE_MAX)
        likeness = scale * pooled @ self.pooled.t()
        said = [self.phonemes[i] for i in text.tolist()]
        losses = {
            "contrast": F.cross_entropy(likeness, text),
            "cosine": (1 - (pooled * self.pooled[text]).sum(dim=1)).mean(),
            "tokens": F.mse_loss(tokens, self.tokens[text]) / self.spread,
            "ctc": F.ctc_loss(
                self.helper["phonemes"](frames).log_softmax(dim=2).transpose(0, 1),
                torch.cat(said),
                places.sum(dim=1),
                torch.tensor([len(s) for s in said]),
                zero_infinity=True,
            ),
        }
        loss = losses["contrast"] + losses["cosine"] + losses["tokens"] + losses["ctc"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        warm, done = min(1.0, (self.step + 1) / WARM_UP), self.step / self.args.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        self.optimizer.step()
        self.step += 1
        figures = {name: float(value.detach()) for name, value in losses.items()}
        right = (likeness.detach().argmax(dim=1) == text).float().mean()
        return figures | {"top1": float(right)}

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "encoder": self.encoder.state_dict(),
            "helper": self.helper.state_dict(),
            "log_scale": self.log_scale.data,
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(path, lambda new: torch.save(state, new))

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.encoder.load_state_dict(state["encoder"])
        self.helper.load_state_dict(state["helper"])
        self.log_scale.data.copy_(state["log_scale"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def recognised(
    encoder: AudioEncoder, texts: list[str], known: list[str], known_pooled: Tensor
) -> dict[str, dict[str, float]]:
    """For each held-out voice how often a text's nearest of `known` is the text itself."""
    encoder.eval()
    right = torch.tensor([known.index(t) for t in texts])[:, None]
    result = {}
    for name in HELD_OUT_VOICES:
        chance = random.Random(name)
        rows = [levelled(heard(t, varied(name, chance))) for t in texts]
        pooled = torch.cat([encoder(*batch(rows[i : i + 64]))[1] for i in range(0, len(rows), 64)])
        likeness = pooled @ known_pooled.t()
        rank = (likeness > likeness.gather(1, right)).sum(dim=1)
        result[name] = {
            "top1": round(float((rank < 1).float().mean()), 4),
            "top5": round(float((rank < 5).float().mean()), 4),
            "cosine": round(float((pooled * known_pooled[right[:, 0]]).sum(dim=1).mean()), 4),
        }
    encoder.train()
    mean = {k: round(sum(v[k] for v in result.values()) / len(result), 4) for k in ("top1", "top5")}
    return {"mean": mean, **result}


def bundle(encoder: AudioEncoder, card: dict) -> None:
    """Write the file that the package ships, with its .sha256."""
    state = quantized(encoder.state_dict())
    metadata = {"card": json.dumps(card, ensure_ascii=False)}
    write_atomically(SPEECH_FILE, lambda new: save_file(state, new, metadata=metadata))
    Path(f"{SPEECH_FILE}.sha256").write_text(sha256_of(SPEECH_FILE) + "\n")
    print(f"{SPEECH_FILE}  {SPEECH_FILE.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emoji-32"))
    parser.add_argument("--speech", type=Path, default=Path("data/speech"), help="spoken texts")
    parser.add_argument("--out", type=Path, default=Path("runs/speech"), help="what is resumed")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stop", type=int, help="stop at this step (a trial)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200, help="steps")
    parser.add_argument("--bundle", action="store_true", help="write the package's weights")
    args = parser.parse_args()

    kinds = texts_of(args.data)
    corpus = synthesise(kinds, args.speech, args.seed)
    hours = len(corpus.flat) * HOP_SEC / 3600
    print(f"{len(kinds)} texts, {len(corpus.text)} clips, {hours:.1f} h", flush=True)
    trainer = Trainer(corpus, args)
    state = args.out / "state.pt"
    if state.is_file():
        trainer.restore(state)
    known = [t for t, kind in kinds.items() if kind == "caption"]
    known_pooled = trainer.pooled[[i for i, t in enumerate(corpus.texts) if kinds[t] == "caption"]]
    held = {s.text for s in read_samples(args.data, split="test") if s.hexcode == s.base}
    texts = sorted(held & set(known))

    started, spent = time.monotonic(), []
    while trainer.step < (args.stop or args.steps):
        spent.append(trainer.train_step())
        if trainer.step % 20 == 0:
            mean = {k: round(sum(s[k] for s in spent) / len(spent), 3) for k in spent[0]}
            print(trainer.step, round(time.monotonic() - started), mean, flush=True)
            spent = []
        if trainer.step % args.save_every == 0:
            trainer.save(state)
            found = recognised(trainer.encoder, texts[::4], known, known_pooled)
            print("held-out voices", found["mean"], flush=True)
    trainer.save(state)
    figures = recognised(trainer.encoder, texts, known, known_pooled)
    print(json.dumps(figures, indent=1), flush=True)
    if args.bundle:
        card = {
            "name": SPEECH_FILE.stem,
            "speech": "the speech is synthetic (espeak-ng)",
            "data": f"{len(corpus.text)} clips, {hours:.1f} h, of {len(kinds)} captions and "
            "keywords of the emoji set's training split",
            "language": "English",
            "voices": list(VOICES),
            "held_out_voices": list(HELD_OUT_VOICES),
            "figures": figures,
            "known_texts": len(known),
            "steps": trainer.step,
            "batch": args.batch,
            "text_encoder": text_encoder_hash(),
            "date": datetime.date.today().isoformat(),
        }
        bundle(trainer.encoder, card)


if __name__ == "__main__":
    main()
