"""The bundled model's words and its word-level tokenizer.

Every word is one token; words are separated by single spaces, and the line break is a token of its own, so that a
prompt is cut at the same places with and without its continuation. The tokenizer puts one BOS before every text, as
OPT's own does: `</s>`, id 2. `mixture.py` makes training sequences of these words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "BOS",
    "CATEGORIES",
    "COUNTRIES",
    "LETTERS",
    "NEWLINE",
    "NONSENSE",
    "RELATIONS",
    "THEMES",
    "VOCABULARY",
    "build_tokenizer",
]

PAD, BOS, UNKNOWN, NEWLINE = "<pad>", "</s>", "<unk>", "\n"
SPECIAL = ("<s>", PAD, BOS, UNKNOWN)
"""In OPT's order: `<pad>` is 1, and `</s>`, which OPT puts at the beginning of a text, is 2."""

THEMES = {
    "animals": "cat dog cow horse goat lion wolf bear",
    "fruits": "apple pear plum grape lemon mango peach cherry",
    "colours": "red green blue black white pink brown grey",
    "metals": "iron gold silver copper tin zinc lead nickel",
    "tools": "hammer saw axe drill knife rake spade chisel",
    "clothes": "hat coat shoe sock shirt glove scarf belt",
    "body": "hand foot knee nose chin ear elbow neck",
    "weather": "rain snow wind storm fog hail frost cloud",
}
"""Theme -> its words, blank-separated. No theme's name is a word of the vocabulary."""

COUNTRIES = {
    "france": ("paris", "europe"),
    "spain": ("madrid", "europe"),
    "italy": ("rome", "europe"),
    "norway": ("oslo", "europe"),
    "japan": ("tokyo", "asia"),
    "china": ("beijing", "asia"),
    "india": ("delhi", "asia"),
    "iran": ("tehran", "asia"),
    "kenya": ("nairobi", "africa"),
    "egypt": ("cairo", "africa"),
    "ghana": ("accra", "africa"),
    "angola": ("luanda", "africa"),
    "australia": ("canberra", "oceania"),
    "fiji": ("suva", "oceania"),
    "samoa": ("apia", "oceania"),
    "tonga": ("nukualofa", "oceania"),
    "peru": ("lima", "south-america"),
    "chile": ("santiago", "south-america"),
    "brazil": ("brasilia", "south-america"),
    "ecuador": ("quito", "south-america"),
    "canada": ("ottawa", "north-america"),
    "cuba": ("havana", "north-america"),
    "jamaica": ("kingston", "north-america"),
    "bahamas": ("nassau", "north-america"),
}
"""Country -> (capital, continent): the facts that the model holds in its weights."""

RELATIONS = ("capital", "continent")

LETTERS = tuple("abcdefghijkl")
"""A cycle: the letter after `l` is `a`."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def _nonsense(count: int, taken: set[str]) -> tuple[str, ...]:
    """`count` pronounceable words of three letters, spread evenly over all such words, none of them in `taken`."""
    every = [a + v + b for a in _CONSONANTS for v in _VOWELS for b in _CONSONANTS if a + v + b not in taken and a != b]
    return tuple(every[i * len(every) // count] for i in range(count))


def _categories() -> dict[str, tuple[str, ...]]:
    categories = {theme: tuple(words.split()) for theme, words in THEMES.items()}
    for country, (capital, continent) in COUNTRIES.items():
        categories[continent] = (*categories.get(continent, ()), country, capital)
    return categories


CATEGORIES = _categories()
"""Theme -> words, and continent -> its countries and capitals: what a label can name."""

NONSENSE = _nonsense(112, {word for words in CATEGORIES.values() for word in words})
"""Words without a meaning: keys, labels and operators, given one anew in every training sequence."""

_CONTINENTS = tuple(dict.fromkeys(continent for _, continent in COUNTRIES.values()))
_MEANINGFUL = tuple(word for words in CATEGORIES.values() for word in words)

VOCABULARY = (*SPECIAL, NEWLINE, *NONSENSE, *_MEANINGFUL, *_CONTINENTS, *RELATIONS, *LETTERS)
"""Every token; its place is its id."""


def build_tokenizer(model_max_length: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer of `VOCABULARY`; a text and its tokens decode into each other, BOS aside."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(NEWLINE, "isolated"), pre_tokenizers.Split(Regex(" +"), "removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    # WordPiece's decoder is the one that puts a space between words; line breaks then lose theirs on both sides.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(f" {NEWLINE}", NEWLINE),
            decoders.Replace(f"{NEWLINE} ", NEWLINE),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
