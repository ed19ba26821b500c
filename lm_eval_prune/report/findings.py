"""What a board found, in a sentence for each number of shots; and how far each ranking can go, as a table.

Made once: the terminal, the page and all files say the same. A share that "can go" is a minimal decline
(`averages.py`): its loss is shown to be within the margin. Of larger shares of which neither that nor a loss is shown,
sentence and table say that they are unclear, never that they can go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lm_eval_prune.report.board import Average, Board, Decline, Entry
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import digits_of, fixed, percent_of_text

__all__ = [
    "DECLINE_TITLE",
    "DeclineRow",
    "Finding",
    "decline_header",
    "decline_note",
    "decline_rows",
    "findings",
]

FIRST = ("own", "aggregate")
"""Rankings that a finding is about, before all others."""
LAST = ("task:", "random", "most:")
"""Begin rankings that a finding is about only where there is nothing else."""
DECLINE_TITLE = "Minimal decline: the share that can go"
DECLINE_NOTE = (
    "The share that can go: its loss, and that of all smaller shares, is shown to be within the margin. Unclear: of "
    "larger shares, up to the one named, neither that nor a loss is shown."
)


HALVED_NOTE = (
    "Halved: by a deciding sweep that halved, and of that share alone; that smaller ones, which it did not ask about, "
    "lose no more is assumed."
)


class Finding(NamedTuple):
    """How far a model can be pruned at a number of shots, by one ranking.

    It is chosen by name, whatever the numbers are: the furthest of many would be too far more often than a test allows.
    """

    model: str
    num_fewshot: int
    component: str
    """`heads` or `FFNs`."""
    ranking: str
    fraction: str
    """The share pruned that `dense` and `kept` are compared at; `0` where none is."""
    enough: bool
    """Whether its loss is shown to be within the margin; else that is unclear."""
    next_fraction: str
    """The next larger share that is worse, or of which nothing is shown; empty where none was evaluated."""
    dense: float
    """Averages: the dense model's, that at `fraction`, that at `next_fraction` (None without one)."""
    kept: float
    after: float | None
    sentence: str


class DeclineRow(NamedTuple):
    """A row of the table of minimal decline."""

    model: str
    ranking: str
    component: str
    cells: tuple[str, ...]
    """One for each of the board's numbers of shots: such as `70 %`, `30 %, unclear to 70 %`, or empty."""


class _Walk(NamedTuple):
    """A ranking's shares at a number of shots, smallest first."""

    decline: Decline
    entries: list[Entry]
    """With an average and a difference to dense."""

    def share(self, entry: Entry) -> str:
        return entry.share(self.decline.component)

    @property
    def seen(self) -> list[Entry]:
        """The entries before the first that is worse."""
        worse = [place for place, entry in enumerate(self.entries) if _average(entry).verdict == "worse"]
        return self.entries[: worse[0]] if worse else self.entries

    @property
    def shown(self) -> list[Entry]:
        """The entries up to the minimal decline."""
        return [entry for entry in self.entries if float(self.share(entry)) <= float(self.decline.fraction)]


def findings(board: Board) -> list[Finding]:
    """The largest number of shots first, at each heads before FFNs; the first is the board's headline."""
    found: dict[tuple[str, str, int], list[_Walk]] = {}
    for walk in _walks(board):
        if walk.entries:
            key = walk.decline.component, walk.decline.model, walk.decline.num_fewshot
            found.setdefault(key, []).append(walk)
    several = len(board.models) > 1
    made = [_finding(_chosen(walks), board, several) for walks in found.values()]
    return sorted(made, key=lambda one: (-one.num_fewshot, one.component != "heads"))


def decline_note(board: Board) -> str:
    """What the table of minimal decline says."""
    return f"{DECLINE_NOTE} {HALVED_NOTE}" if any(decline.halved for decline in board.declines) else DECLINE_NOTE


def decline_header(board: Board) -> list[str]:
    return ["ranking", "pruned", *map(shots_name, board.shots)]


def decline_rows(board: Board) -> list[DeclineRow]:
    """A row a ranking and component: how far it can go at each number of shots, as DECLINE_NOTE says."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for walk in _walks(board):
        decline = walk.decline
        key = decline.model, decline.ranking, decline.component
        found.setdefault(key, {})[decline.num_fewshot] = _cell(walk)
    return [DeclineRow(*key, tuple(by_shots.get(k, "") for k in board.shots)) for key, by_shots in found.items()]


def _walks(board: Board) -> list[_Walk]:
    return [_Walk(decline, _family(board.entries, decline)) for decline in board.declines]


def _family(entries: Sequence[Entry], decline: Decline) -> list[Entry]:
    """The entries that a decline is about."""
    other = "FFNs" if decline.component == "heads" else "heads"
    own = [
        entry
        for entry in entries
        if entry.model == decline.model
        and entry.num_fewshot == decline.num_fewshot
        and entry.named_ranking == decline.ranking
        and float(entry.share(decline.component))
        and not float(entry.share(other))
        and entry.average is not None
        and entry.average.difference is not None
    ]
    return sorted(own, key=lambda entry: float(entry.share(decline.component)))


def _average(entry: Entry) -> Average:
    assert entry.average is not None
    return entry.average


def _chosen(walks: Sequence[_Walk]) -> _Walk:
    """By the task's own scores, by their mean, by others, by other tasks', at random; oracles after all of these."""

    def place(walk: _Walk) -> tuple[bool, int, str]:
        name = walk.decline.ranking.removesuffix(", oracle")
        early = FIRST.index(name) if name in FIRST else len(FIRST)
        late = next((1 + number for number, begin in enumerate(LAST) if name.startswith(begin)), 0)
        return walk.entries[0].oracle, early + late, name

    return min(walks, key=place)


def _cell(walk: _Walk) -> str:
    shown = percent_of_text(walk.decline.fraction) + (" (halved)" if walk.decline.halved else "")
    seen = percent_of_text(walk.share(walk.seen[-1])) if walk.seen else ""
    clear = not walk.seen or float(walk.share(walk.seen[-1])) <= float(walk.decline.fraction)
    return shown if clear else f"{shown}, unclear to {seen}"


def _finding(walk: _Walk, board: Board, several: bool) -> Finding:
    decline, enough = walk.decline, bool(walk.shown)
    kept = walk.shown or walk.seen
    rest = walk.entries[len(kept) :]
    worse = [entry for entry in rest if _average(entry).verdict == "worse"]
    after = (worse or rest)[:1]
    first = _average(walk.entries[0])
    assert first.difference is not None
    dense = first.value - first.difference.value
    numbers = [dense, *(_average(entry).value for entry in [*kept[-1:], *after])]
    texts = _texts(numbers, digits_of(first.num_documents))
    sentence = f"{f'{decline.model}, ' if several else ''}{shots_name(decline.num_fewshot)}: "
    if first.verdict == "dense is at chance" and not worse:
        sentence += f"the dense model's average, {texts[0]}, is not shown to be above chance: no loss can show"
    else:
        sentence += _kept_text(walk, kept, board, texts[:2])
    if after and (worse or first.verdict != "dense is at chance"):
        sentence += f"; at {percent_of_text(walk.share(after[0]))} {_after_text(after[0], texts[0], texts[-1])}"
    return Finding(
        decline.model,
        decline.num_fewshot,
        decline.component,
        decline.ranking,
        walk.share(kept[-1]) if kept else "0",
        enough,
        walk.share(after[0]) if after else "",
        dense,
        _average(kept[-1]).value if kept else dense,
        _average(after[0]).value if after else None,
        sentence,
    )


def _kept_text(walk: _Walk, kept: Sequence[Entry], board: Board, texts: Sequence[str]) -> str:
    component, ranking = walk.decline.component, walk.decline.ranking
    if not kept:
        return f"no share of the {component} that was tried can go (ranking {ranking})"
    share = percent_of_text(walk.share(kept[-1]))
    if walk.shown:
        halved = "; found by halving, smaller shares were not all asked about" if walk.decline.halved else ""
        return f"{share} of the {component} can go (ranking {ranking}, average {texts[0]} to {texts[1]}{halved})"
    return (
        f"it is unclear whether up to {share} of the {component} can go (ranking {ranking}, average {texts[0]} to "
        f"{texts[1]}; {_counted(kept[-1])} too few to exclude a loss of {board.margin:g})"
    )


def _counted(entry: Entry) -> str:
    """The documents that a row's average is over, and its draws where there are several."""
    number = _average(entry).num_documents
    draws = len({(run.variant.seed, run.fewshot_seed) for run in entry.runs})
    documents = f"{number:,} documents" if number else "documents"
    return f"{documents} and {draws} draws are" if draws > 1 else f"{documents} are"


def _after_text(entry: Entry, dense: str, value: str) -> str:
    average = _average(entry)
    if average.verdict != "worse":
        return f"it is {value}, {average.verdict or 'not compared'}"
    assert average.difference is not None
    return f"the average {'falls' if average.difference.value < 0 else 'rises'} from {dense} to {value}"


def _texts(numbers: Sequence[float], most: int) -> list[str]:
    """The numbers with two decimals, or as many (up to `most`) as tell all different ones apart."""
    for digits in range(2, most + 1):
        texts = [fixed(number, digits) for number in numbers]
        if len(set(texts)) == len({fixed(number, most) for number in numbers}):
            return texts
    return [fixed(number, most) for number in numbers]
