"""What the paper shows and says, as data: its figures and tables in order, and the claims that a run can check.

The sentences are our own. Thresholds are the paper's numbers where it gives them; `ours` says where it does not, and
what was taken instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CLAIMS", "SECTIONS", "Claim", "Section"]

SHOTS = (0, 1, 5)
"""Of the paper."""


@dataclass(frozen=True)
class Section:
    """A figure or table of the paper."""

    key: str
    """Safe as an HTML id."""
    number: str
    """In the paper's numbering."""
    title: str
    found: str
    """What the paper found."""


@dataclass(frozen=True)
class Claim:
    """A sentence that holds where a quantity is on the right side of a threshold."""

    key: str
    section: str
    """Key of its section."""
    text: str
    """At any number of shots."""
    quantity: str
    """A name of `quantities.QUANTITIES`."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """What the quantity is of: keyword arguments of its function."""
    relation: Literal["at most", "more than"] = "more than"
    threshold: float = 0.0
    ours: str = ""
    """What of it is not the paper's number, and why it was taken."""

    @property
    def num_fewshot(self) -> int | None:
        """Of its quantity; None where that is of none, or of several."""
        return self.where.get("num_fewshot")


SECTIONS = (
    Section("figure-3", "Figure 3", "Which heads are important: the mean over tasks",
            "The important heads lie mostly in the middle layers."),
    Section("figure-4", "Figure 4", "Heads pruned, least important first",
            "About 70 % of the heads can go before accuracy falls sharply, about 60 % at 5 shots."),
    Section("figure-5", "Figure 5", "Which FFNs are important",
            "Most FFNs matter little alone; those that matter lie in the later half of the layers, from the 31st of "
            "64 on."),
    Section("figure-6", "Figure 6", "FFNs pruned, least important first",
            "About 20 % of the FFNs can go with little loss."),
    Section("figure-7", "Figure 7", "Heads and FFNs pruned together",
            "Without 70 % of the heads and 20 % of the FFNs the average accuracy is 5 points lower at 0 shots; without "
            "70 % and 10 %, 6 points at 1 shot; without 60 % and 20 %, 4 points at 5 shots."),
    Section("figure-8", "Figures 8 and 15", "Do the tasks agree on which heads are important?",
            "The rankings of any two tasks correlate positively, with p below 0.01. Its code correlates orders instead "
            "of scores, so its numbers are not those below."),
    Section("section-6-1-1", "Section 6.1.1", "How many of the most important 30 % of heads tasks share",
            "The most important heads of different tasks overlap far beyond chance."),
    Section("figure-9", "Figures 9 a-c, 16, 17", "Heads pruned by another task's importance",
            "The importance of a task that agrees costs less accuracy than that of one that does not; the mean over "
            "the tasks serves each of them about as well as its own."),
    Section("figure-9d", "Figures 9 d, e", "Tasks outside the study, pruned by the tasks' mean importance",
            "Heads that the 14 tasks do not need are not needed for MathQA and LAMBADA either, up to about half of "
            "them."),
    Section("table-1", "Table 1", "Do numbers of shots agree on which heads are important?",
            "A task's rankings at different numbers of shots correlate positively."),
    Section("figure-10", "Figure 10", "Induction heads: prefix matching and copying",
            "A small set of heads scores high on prefix matching, and one on copying."),
    Section("figure-11", "Figure 11", "Induction capacity that is left when the least important heads go",
            "Heads that the tasks need do more than their share of prefix matching and copying."),
    Section("figure-12", "Figures 12 to 14", "Which heads are important to each task",
            "The maps of single tasks look alike, and like their mean."),
    Section("figure-18", "Figure 18", "Prefix matching that is left under each task's ranking",
            "What holds of the mean importance holds of the tasks, to different degrees."),
    Section("figure-19", "Figure 19", "Copying that is left under each task's ranking",
            "What holds of the mean importance holds of the tasks, to different degrees."),
)  # fmt: skip

READ = "points of the average are taken for what the text calls an absolute drop"
HEADLINE = "at the share that the study's headline prunes; the paper draws the whole curve"
LITTLE = "the paper gives no number; 5 points are taken for a little loss"


def _decline(part: str, heads: str, ffns: str, shots: int, **more: Any) -> dict[str, Any]:
    return {"part": part, "ranking": "own", "heads": heads, "ffns": ffns, "num_fewshot": shots, **more}


def _percent(share: str) -> str:
    return f"{100 * float(share):g} %"


def _heads(shots: int, share: str, points: float) -> Claim:
    text = f"{_percent(share)} of the heads go for at most {100 * points:g} points"
    return Claim(f"heads-{shots}shot", "figure-4", text, "loss", _decline("heads", share, "0", shots), "at most",
                 points, READ)  # fmt: skip


def _ffns(shots: int) -> Claim:
    text = "20 % of the FFNs go for at most 5 points"
    return Claim(f"ffns-{shots}shot", "figure-6", text, "loss", _decline("ffns", "0", "0.2", shots), "at most",
                 0.05, LITTLE)  # fmt: skip


def _combined(shots: int, heads: str, ffns: str, points: float) -> Claim:
    text = f"{_percent(heads)} of the heads and {_percent(ffns)} of the FFNs go for at most "
    return Claim(f"combined-{shots}shot", "figure-7", f"{text}{100 * points:g} points", "loss",
                 _decline("combined", heads, ffns, shots), "at most", points, READ)  # fmt: skip


def _of_shots(shots: int) -> tuple[Claim, ...]:
    """The claims that are made at each number of shots, but of sizes of loss."""
    at = {"num_fewshot": shots}
    return (
        Claim(f"middle-layers-{shots}shot", "figure-3",
              "the middle half of the layers has more than half of the important heads", "important_in_middle", at,
              ours="the middle half of the layers, and the most important 30 % of heads"),
        Claim(f"later-ffns-{shots}shot", "figure-5", "FFNs of the later half matter more than those of the "
              "first", "later_ffns", at),
        Claim(f"agreement-{shots}shot", "figure-8", "rankings of two tasks correlate positively",
              "agreement_of_tasks", at),
        Claim(f"overlap-{shots}shot", "section-6-1-1", "two tasks share more of their top 30 % of heads than by "
              "chance", "overlap_of_tasks", at),
        Claim(f"closest-{shots}shot", "figure-9", "half of the heads pruned by the closest task's ranking leave "
              "more accuracy than by the farthest's", "gain_over", {
                  "part": "transfer", "ranking": "task:closest", "over": "task:farthest", "heads": "0.5", **at},
              ours="half of the heads: the middle of the paper's grid"),
        Claim(f"aggregate-{shots}shot", "figure-9", "half of the heads pruned by the mean ranking cost at most 5 "
              "points more than by the task's own", "loss_over", {
                  "part": "heads", "ranking": "aggregate", "over": "own", "heads": "0.5", **at},
              "at most", 0.05, LITTLE),
        Claim(f"unseen-{shots}shot", "figure-9d", "half of the heads pruned by the study's mean ranking cost a "
              "task outside at most 5 points", "loss_of_unseen", {"heads": "0.5", **at}, "at most", 0.05, LITTLE),
        Claim(f"prefix-matching-{shots}shot", "figure-18", "the 30 % of heads that a task needs most hold more "
              "than their share of prefix matching", "retained", {"kind": "prefix-matching", **at}, ours=HEADLINE),
        Claim(f"copying-{shots}shot", "figure-19", "the 30 % of heads that a task needs most hold more than "
              "their share of copying", "retained", {"kind": "copying", **at}, ours=HEADLINE),
    )  # fmt: skip


def _induction(kind: str, name: str) -> tuple[Claim, ...]:
    few = f"few heads do {name}: half of the total score lies in at most a fifth of them"
    overlap = f"the top 30 % of heads of a task and by {name} share more than by chance"
    kept = f"the 30 % of heads of highest mean importance hold more than their share of {name}"
    return (
        Claim(f"few-{kind}", "figure-10", few, "heads_for_half", {"kind": kind}, "at most", 0.2,
              "the paper gives no number; half of the score in a fifth of the heads is taken for few"),
        *(Claim(f"induction-{kind}-{shots}shot", "figure-10", overlap, "overlap_with_induction",
                {"kind": kind, "num_fewshot": shots}) for shots in SHOTS),
        *(Claim(f"mean-{kind}-{shots}shot", "figure-11", kept, "retained_by_mean",
                {"kind": kind, "num_fewshot": shots}, ours=HEADLINE) for shots in SHOTS),
    )  # fmt: skip


def _shots_pair(first: int, second: int) -> Claim:
    text = f"rankings at {first} and {second} shots correlate positively"
    return Claim(f"shots-{first}-{second}", "table-1", text, "agreement_of_shots", {"first": first, "second": second})


CLAIMS = (
    _heads(0, "0.7", 0.05), _heads(1, "0.7", 0.06), _heads(5, "0.6", 0.04),
    *map(_ffns, SHOTS),
    _combined(0, "0.7", "0.2", 0.05), _combined(1, "0.7", "0.1", 0.06), _combined(5, "0.6", "0.2", 0.04),
    *(claim for shots in SHOTS for claim in _of_shots(shots)),
    _shots_pair(0, 1), _shots_pair(0, 5), _shots_pair(1, 5),
    *_induction("prefix-matching", "prefix matching"), *_induction("copying", "copying"),
)  # fmt: skip
