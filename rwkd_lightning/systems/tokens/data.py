"""Tagged sentences of a user's own, cut into splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.data.splits import cuts
from rwkd_lightning.systems.tokens.reader import Fields, Sentences, read_sentences
from rwkd_lightning.systems.tokens.schemes import OUTSIDE, PREFIXES, iob2_of, parsed, scheme_of, violation
from rwkd_lightning.systems.tokens.summary import summarise
from rwkd_lightning.utils.errors import UserError

SPLITS = ("train", "meta", "validation", "test")
MOST_TAGS = 1000
LISTED = 20


@dataclass
class Split:
    """N sentences with their tags as numbers."""

    tokens: list[list[str]]
    tags: list[list[int]]
    idx: list[int]
    """Their numbers in the file, from 0."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def words(self) -> int:
        """Of all sentences together."""
        return sum(map(len, self.tokens))

    def fingerprint(self) -> str:
        """Changes with every word and tag."""
        return digest([self.tokens, self.tags, self.idx])


@dataclass
class TokenData:
    """Tags by name, the scheme they are in, and the splits train, meta, validation and test."""

    tags: tuple[str, ...]
    scheme: str
    splits: Mapping[str, Split]
    weights: np.ndarray | None = None
    """Of the training sentences, ``(N,)``."""
    names: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {tag: number for number, tag in enumerate(self.tags)}

    def named(self, split: str) -> list[list[str]]:
        """The tags of a split by name."""
        return [[self.tags[number] for number in sentence] for sentence in self.splits[split].tags]


def load_tokens(
    train: str | None,
    validation: str | None = None,
    test: str | None = None,
    token_column: int = 0,
    tag_column: int = -1,
    tokens: str = "tokens",
    tags: str = "tags",
    weight: str | None = None,
    scheme: str | None = None,
    encoding: str | None = None,
    meta_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
) -> TokenData:
    """Read the files and cut what is not given.

    The meta split is cut out of the training sentences, and so are validation and test where no file is given. A cut is
    seeded, keeps the rarest tag of each sentence in proportion, and leaves sentences of equal words (letters and digits
    alone count) on one side.

    Args:
        train: a column file, or JSON lines if its name ends in .jsonl or .json.
        validation: as ``train``; None: cut.
        test: as ``train``; None: cut.
        token_column: of a column file, from 0; -1 is the last.
        tag_column: the same.
        tokens: the key of the words in JSON lines.
        tags: the key of the tags.
        weight: the key of a sentence's weight, for ``weighting=given``.
        scheme: see ``schemes.SCHEMES``; None: told by the training file's tags. IOB1 is read as IOB2.
        encoding: None: UTF-8, or UTF-16 with a mark.
        meta_fraction: share of the training sentences held out for the meta step.
        validation_fraction: share cut off for validation.
        test_fraction: share cut off for the test.
        split_seed: of all cuts.

    Raises:
        UserError: for files and tags that cannot be read as this, naming the line.
    """
    if train is None:
        raise UserError("data.train names no file; give data.train=FILE, of columns or JSON lines (.jsonl)")
    if tokens == tags:
        raise UserError(f"data.tokens={tokens} data.tags={tags}: give two keys, one of the words and one of their tags")
    if token_column == tag_column:
        raise UserError(
            f"data.token_column={token_column} data.tag_column={tag_column}: give two columns, words and their tags"
        )
    paths = {"train": train, "validation": validation, "test": test}
    files = {
        name: read_sentences(
            path,
            f"data.{name}",
            Fields(token_column, tag_column, tokens, tags, weight if name == "train" else None),
            encoding,
        )
        for name, path in paths.items()
        if path is not None
    }
    scheme = checked_scheme(files, scheme)
    names = tag_names(files)
    place = {name: number for number, name in enumerate(names)}
    numbers = {name: [[place[tag] for tag in sentence] for sentence in file.tags] for name, file in files.items()}
    groups = [key_of(sentence) for sentence in files["train"].tokens]
    shares = {"meta": meta_fraction, "validation": validation_fraction, "test": test_fraction}
    shares = {name: share for name, share in shares.items() if name not in files}
    rows = cuts(groups, rarest(numbers["train"]), shares, split_seed, "distinct sentences")
    rows |= {name: np.arange(len(file)) for name, file in files.items() if name != "train"}
    splits = {}
    for name in SPLITS:
        source = name if name in files else "train"
        taken = rows[name].tolist()
        splits[name] = Split(
            [files[source].tokens[row] for row in taken], [numbers[source][row] for row in taken], taken
        )
    learnt = {number for sentence in splits["train"].tags for number in sentence}
    for number, tag in enumerate(names):
        if number not in learnt:
            raise UserError(
                f"tag {tag!r} is in too few distinct sentences of data.train: none of them is left for training after "
                "the cuts; give more, or leave it out"
            )
    data = TokenData(
        names, scheme, splits, None if weight is None else weights_of(files["train"], rows["train"], weight)
    )
    summarise(data.splits, data.tags, scheme, groups, set(files))
    return data


def checked_scheme(files: Mapping[str, Sentences], wanted: str | None) -> str:
    """The scheme of the tags, after a look at each of them; tags in IOB1 are IOB2 afterwards.

    Raises:
        UserError: for IOB1 where it was not asked for, and for the first tag that the scheme does not allow.
    """
    train = files["train"]
    found = scheme_of(train.tags) if wanted is None else wanted
    if found == "iob1" and wanted is None:
        row, word = next(
            (row, bad) for row, tags in enumerate(train.tags) if (bad := violation(tags, "iob2")) is not None
        )
        raise UserError(
            f"{train.at(row, word)} has {train.tags[row][word]!r} where an entity begins: the file is in IOB1; add "
            "data.scheme=iob1 to have it read as IOB2, where B- begins every entity"
        )
    for file in files.values():
        for row, tags in enumerate(file.tags):
            for word, tag in enumerate(tags):
                check_tag(file, row, word, tag, found)
            if (bad := violation(tags, found)) is not None:
                before = tags[bad - 1] if bad else "the beginning of a sentence"
                last = " as the last tag of its sentence" if bad == len(tags) - 1 else ""
                raise UserError(
                    f"{file.at(row, bad)} has {tags[bad]!r} after {before}{last}, which {found.upper()} does not "
                    "allow; correct it, or set data.scheme=loose to take the tags as they stand"
                )
    if found == "iob1":
        for file in files.values():
            file.tags = [iob2_of(tags) for tags in file.tags]
        return "iob2"
    return found


def check_tag(file: Sentences, row: int, word: int, tag: str, scheme: str) -> None:
    """Raise UserError for a tag that is none of the scheme's, wherever it stands."""
    if scheme == "plain":
        return
    found = parsed(tag)
    if found is None:
        raise UserError(
            f"{file.at(row, word)} has the tag {tag!r} beside tags such as B-X of {scheme.upper()}; correct it, or set "
            "data.scheme=plain if the tags mark no entities"
        )
    if found[0] in "LU":
        raise UserError(
            f"{file.at(row, word)} has the tag {tag!r}, as in BILOU; write L- as E- and U- as S-, which is BIOES"
        )
    if found[0] != OUTSIDE and found[0] not in PREFIXES[scheme]:
        raise UserError(
            f"{file.at(row, word)} has the tag {tag!r}, and the tags are in {scheme.upper()}, which knows "
            f"{', '.join(PREFIXES[scheme])} and O; correct it, or set data.scheme=bioes"
        )


def tag_names(files: Mapping[str, Sentences]) -> tuple[str, ...]:
    """The tags of the training file: O first, then sorted by type.

    Raises:
        UserError: for one tag only, for so many that they are none, and for one of another file that training lacks.
    """
    counts = Counter(tag for sentence in files["train"].tags for tag in sentence)
    names = tuple(sorted(counts, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2] or tag, tag)))
    where = files["train"].where
    if len(names) < 2:
        raise UserError(f"{where} has the tag {names[0]!r} alone; give two or more (is data.tag_column the right one?)")
    if len(names) > MOST_TAGS:
        raise UserError(
            f"{where} has {len(names)} different tags, as {names[-1]!r}; name the column of tags by data.tag_column"
        )
    for name, file in files.items():
        for row, tags in enumerate(file.tags):
            for word, tag in enumerate(tags):
                if tag not in counts:
                    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
                    raise UserError(
                        f"{file.at(row, word)} has the tag {tag!r}, which no sentence of data.train has ({listed}); "
                        f"correct it, or leave the sentence out of data.{name}"
                    )
    return names


def key_of(tokens: Sequence[str]) -> str:
    """A sentence by letters and digits alone, so that copies with other marks and cases are one."""
    text = " ".join(tokens)
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def rarest(tags: Sequence[Sequence[int]]) -> np.ndarray:
    """Of each sentence, the tag that the fewest sentences have, ``(N,)``."""
    counts = Counter(number for sentence in tags for number in set(sentence))
    return np.array([min(sentence, key=lambda number: (counts[number], number)) for sentence in tags])


def weights_of(file: Sentences, rows: np.ndarray, key: str) -> np.ndarray:
    """The weights of these sentences, ``(N,)`` float32; UserError for one that is no number of 0 or more."""
    for row, value in enumerate(file.weights):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(f"{file.at(row)} has {value!r} as {key!r}; give each sentence a weight of 0 or more")
    return np.array([file.weights[row] for row in rows.tolist()], np.float32)
