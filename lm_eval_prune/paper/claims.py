"""What the paper shows and says, as data: its figures and tables in order, and the claims that a run can check.

The sentences are our own. Thresholds are the paper's numbers where it gives them; `ours` says where it does not, and
what was taken instead. `checked` names the section of the paper's text in which a claim was looked up. Figures were
read by their captions and by what the text says of them, not by their curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CLAIMS", "SECTIONS", "UNCHECKED", "Claim", "Section"]

SHOTS = (0, 1, 5)
"""Of the paper."""
UNCHECKED = "not checked against the paper's text"


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
    """What of it is not the paper's, and why it was taken."""
    checked: str = ""
    """Section of the paper's text that says so; empty where it was not checked against the text."""

    @property
    def num_fewshot(self) -> int | None:
        """Of its quantity; None where that is of none, or of several."""
        return self.where.get("num_fewshot")

    @property
    def shots(self) -> frozenset[int]:
        """All numbers of shots that its quantity takes data of."""
        given = [self.where.get(name) for name in ("num_fewshot", "first", "second", "pair", "over")]
        several = [value for one in given for value in (one if isinstance(one, tuple) else (one,))]
        return frozenset(value for value in several if isinstance(value, int))


SECTIONS = (
    Section("figure-3", "Figure 3", "Which heads are important: the mean over tasks",
            "The important heads lie mostly in the middle layers, at 0, 1 and 5 shots, on average and in single "
            "tasks."),
    Section("figure-4", "Figure 4", "Which FFNs are important",
            "At 0 and 1 shots hardly an FFN of the first 30 of 64 layers is missed in most tasks; at 5 shots FFNs of "
            "early layers are important too. In the later layers tasks differ much, in WSC and MultiRC by up to 20 "
            "points."),
    Section("figure-5", "Figure 5", "Heads pruned, least important first",
            "The average over tasks changes little until about 70 % of the heads are gone. At 0 shots WSC and CB "
            "gain."),
    Section("figure-6", "Figure 6", "FFNs pruned, least important first",
            "At 0 shots the average does not change until about 20 % of the FFNs are gone; at 1 and 5 shots it falls "
            "from 10 % on."),
    Section("figure-7", "Figure 7", "Heads and FFNs pruned together, by the mean over tasks",
            "Without 70 % of the heads and 20 % of the FFNs the average accuracy is 5 points lower at 0 shots; without "
            "70 % and 10 %, 6 points at 1 shot; without 60 % and 20 %, 4 points at 5 shots."),
    Section("figure-8", "Figures 8 and 15", "Do the tasks agree on which heads are important?",
            "The rankings of any two tasks, and of each task and the mean, correlate positively, with p below 0.01; "
            "ReCoRD's least, with 0.13 to COPA and WinoGrande at 0 shots. Its code correlates orders instead of "
            "scores, so its numbers are not those below."),
    Section("section-6-1-2", "Section 6.1.2", "How many of the most important 30 % of heads tasks share",
            "At 0 shots ReCoRD shares 71 % of its most important 30 % of heads with COPA, and 76 % with WinoGrande."),
    Section("figure-9", "Figures 9 a-c, 16, 17", "Heads pruned by another task's importance",
            "COPA, WinoGrande and ReCoRD lose hardly anything up to half of the heads, by their own ranking, the "
            "mean, and those of the tasks that agree most and least. At 70 % COPA and WinoGrande fall under ReCoRD's, "
            "which agrees least; at 1 shot by less, and at 5 shots no longer. ReCoRD is then better off by the mean "
            "than by its own."),
    Section("figure-9d", "Figures 9 d, e", "Tasks outside the study, pruned by the tasks' mean importance",
            "MathQA and LAMBADA do somewhat better by their own ranking than by the mean over the 14 tasks: the mean "
            "serves MathQA well, within 1 to 2 points, and LAMBADA less so."),
    Section("table-1", "Table 1", "Do numbers of shots agree on which heads are important?",
            "A task's rankings correlate positively: on average by 0.39 between 0 and 1 shot, 0.37 between 0 and 5, "
            "and 0.41 between 1 and 5, with a variance of 0.001 over tasks and every p below 0.01."),
    Section("figure-10", "Figure 10", "Induction heads: prefix matching and copying",
            "Few heads score high on prefix matching, all from the 31st layer on; more do on copying, most of them "
            "from the 41st on. The maps overlap with those of the important heads."),
    Section("figure-11", "Figure 11", "Induction capacity that is left when the least important heads go",
            "Prefix matching is mostly left when 20 % of the heads go, and falls fast from 40 % on; heads that are "
            "important at 1 and 5 shots do more of it than those at 0. Copying falls at once."),
    Section("figure-12", "Figures 12 to 14", "Which heads are important to each task",
            "In single tasks too the important heads lie mostly in the middle layers."),
    Section("figure-18", "Figure 18", "Prefix matching that is left under each task's ranking",
            "Some tasks need induction heads more than others: at first HellaSwag and ReCoRD lose less capacity than "
            "OpenBookQA."),
    Section("figure-19", "Figure 19", "Copying that is left under each task's ranking",
            "As in Figure 18, tasks differ."),
)  # fmt: skip

LITTLE = "the paper gives no number; 5 points are taken for a little loss"
READ = "points of the average accuracy are taken for what the text calls an absolute drop"
THREE_TASKS = f"the paper draws three tasks, here it is their average; {LITTLE}"
AT_FIRST = "40 %, from where on the paper sees it fall faster; more than a random share is taken for little lost"


def _percent(share: str) -> str:
    return f"{100 * float(share):g} %"


def _loss(part: str, ranking: str, shots: int, *, heads: str = "0", ffns: str = "0") -> dict[str, Any]:
    return {"part": part, "ranking": ranking, "heads": heads, "ffns": ffns, "num_fewshot": shots}


def _ffns(shots: int, share: str) -> Claim:
    return Claim(f"ffns-{shots}shot", "figure-6", f"{_percent(share)} of the FFNs go for at most 5 points", "loss",
                 _loss("ffns", "own", shots, ffns=share), "at most", 0.05, LITTLE, "5.2")  # fmt: skip


def _combined(shots: int, heads: str, ffns: str, points: float) -> Claim:
    text = f"{_percent(heads)} of the heads and {_percent(ffns)} of the FFNs go for at most {100 * points:g} points"
    where = _loss("combined", "aggregate", shots, heads=heads, ffns=ffns)
    return Claim(f"combined-{shots}shot", "figure-7", text, "loss", where, "at most", points, READ, "5.3")


def _of_shots(shots: int) -> tuple[Claim, ...]:
    """The claims that are made at each number of shots."""
    at = {"num_fewshot": shots}
    return (
        Claim(f"middle-layers-{shots}shot", "figure-3",
              "the middle half of the layers has more than half of the important heads", "important_in_middle", at,
              ours="the middle half of the layers, and the most important 30 % of heads", checked="4.1"),
        Claim(f"heads-{shots}shot", "figure-5", "70 % of the heads go for at most 5 points", "loss",
              _loss("heads", "own", shots, heads="0.7"), "at most", 0.05, LITTLE, "5.1"),
        Claim(f"agreement-{shots}shot", "figure-8", "rankings of two tasks correlate positively",
              "agreement_of_tasks", at, ours="the mean over pairs; the paper says it of every pair", checked="6.1.1"),
        Claim(f"mean-ranking-{shots}shot", "figure-8", "rankings of a task and of the tasks' mean correlate positively",
              "agreement_with_mean", at, ours="the mean over tasks; the paper says it of every task", checked="6.1.1"),
        Claim(f"overlap-{shots}shot", "section-6-1-2", "two tasks share more of their top 30 % of heads than by "
              "chance", "overlap_of_tasks", at,
              ours="the mean over pairs; the paper has two pairs, at 0 shots", checked="6.1.2"),
        Claim(f"farthest-{shots}shot", "figure-9", "half of the heads go by the ranking of the task that agrees least "
              "for at most 5 points", "loss", _loss("transfer", "task:farthest", shots, heads="0.5"), "at most", 0.05,
              THREE_TASKS, "6.1.2"),
        Claim(f"aggregate-{shots}shot", "figure-9", "half of the heads go by the mean ranking for at most 5 points",
              "loss", _loss("heads", "aggregate", shots, heads="0.5"), "at most", 0.05, THREE_TASKS, "6.1.2"),
        Claim(f"unseen-{shots}shot", "figure-9d", "without half of the heads a task outside keeps more accuracy by its "
              "own ranking than by the study's mean", "gain_over",
              {"part": "unseen", "ranking": "own", "over": "aggregate", "heads": "0.5", **at},
              ours="half of the heads; the paper draws whole curves", checked="6.1.2"),
        Claim(f"mathqa-{shots}shot", "figure-9d", "without half of the heads MathQA loses at most 2 points more by the "
              "study's mean ranking than by its own", "loss_over",
              {"part": "unseen", "ranking": "aggregate", "over": "own", "heads": "0.5", "task": "mathqa", **at},
              "at most", 0.02, "half of the heads; the paper draws whole curves", "6.1.2"),
        Claim(f"prefix-matching-{shots}shot", "figure-18", "the 40 % of heads that a task needs least hold less than "
              "their share of prefix matching", "retained", {"kind": "prefix-matching", "pruned": "0.4", **at},
              ours="the paper says it of the mean ranking; of tasks it compares slopes, without numbers",
              checked="A.5"),
        Claim(f"copying-{shots}shot", "figure-19", "without the 20 % of heads that a task needs least, less is left of "
              "copying than of prefix matching", "retained_over", {"pruned": "0.2", **at},
              ours="the paper says it of the mean ranking; of tasks it compares slopes, without numbers",
              checked="A.5"),
        Claim(f"mean-prefix-matching-{shots}shot", "figure-11", "the 40 % of heads of lowest mean importance hold less "
              "than their share of prefix matching", "retained_by_mean",
              {"kind": "prefix-matching", "pruned": "0.4", **at}, ours=AT_FIRST, checked="6.3.1"),
        Claim(f"mean-copying-{shots}shot", "figure-11", "without the 20 % of heads of lowest mean importance, less is "
              "left of copying than of prefix matching", "retained_by_mean_over", {"pruned": "0.2", **at},
              ours="the paper says that copying falls at once, and prefix matching does not", checked="6.3.1"),
        *(Claim(f"induction-{kind}-{shots}shot", "figure-10", f"the top 30 % of heads of a task and by {name} share "
                "more than by chance", "overlap_with_induction", {"kind": kind, **at},
                ours="the paper compares maps by eye", checked="6.3.1")
          for kind, name in (("prefix-matching", "prefix matching"), ("copying", "copying"))),
    )  # fmt: skip


def _at_few_layers(shots: int) -> tuple[Claim, ...]:
    """What the paper says of FFNs at 0 and 1 shots, and not at 5."""
    at = {"num_fewshot": shots}
    return (
        Claim(f"later-ffns-{shots}shot", "figure-4", "FFNs of the later half matter more than those of the first",
              "later_ffns", at, ours="halves; the paper says from the 31st of 64 layers on", checked="1 and 4.2"),
        Claim(f"early-ffns-{shots}shot", "figure-4", "an FFN of the first half is missed by at most 1 point",
              "early_ffns", at, "at most", 0.01,
              "their mean over layers and tasks; the paper says as good or better in most tasks", "4.2"),
    )  # fmt: skip


def _least(shots: int) -> Claim:
    """Whether a ranking that agrees least costs more."""
    return Claim(f"closest-{shots}shot", "figure-9", "70 % of the heads pruned by the ranking of the task that agrees "
                 "most leave more accuracy than by that of the one that agrees least", "gain_over",
                 {"part": "transfer", "ranking": "task:closest", "over": "task:farthest", "heads": "0.7",
                  "num_fewshot": shots},
                 ours="the paper says it of COPA and WinoGrande under ReCoRD's ranking", checked="6.1.2")  # fmt: skip


def _shots_pair(first: int, second: int) -> Claim:
    text = f"rankings at {first} and {second} shots correlate positively"
    return Claim(f"shots-{first}-{second}", "table-1", text, "agreement_of_shots", {"first": first, "second": second},
                 checked="6.2")  # fmt: skip


CLAIMS = (
    *(claim for shots in SHOTS for claim in _of_shots(shots)),
    *(claim for shots in (0, 1) for claim in _at_few_layers(shots)),
    _ffns(0, "0.2"), _ffns(1, "0.1"), _ffns(5, "0.1"),
    _combined(0, "0.7", "0.2", 0.05), _combined(1, "0.7", "0.1", 0.06), _combined(5, "0.6", "0.2", 0.04),
    _least(0), _least(1),
    Claim("settled-5shot", "figure-9", "at 70 % of the heads the task that agrees least costs at most 5 points more "
          "than the one that agrees most", "loss_over",
          {"part": "transfer", "ranking": "task:farthest", "over": "task:closest", "heads": "0.7", "num_fewshot": 5},
          "at most", 0.05, "the paper says that the difference is gone at 5 shots; 5 points are taken", "6.1.2"),
    _shots_pair(0, 1), _shots_pair(0, 5), _shots_pair(1, 5),
    Claim("few-shot", "table-1", "rankings at 1 and 5 shots agree more than those at 0 and 5",
          "agreement_of_shots_over", {"pair": (1, 5), "over": (0, 5)}, checked="6.2"),
    Claim("few-prefix-matching", "figure-10", "few heads do prefix matching: half of the total score lies in at most a "
          "fifth of them", "heads_for_half", {"kind": "prefix-matching"}, "at most", 0.2,
          "the paper gives no number; half of the score in a fifth of the heads is taken for few", "6.3"),
    Claim("more-copying", "figure-10", "more heads do copying: half of its total score lies in more of them than half "
          "of that of prefix matching", "heads_for_half_over", {}, ours="half of the score; the paper sees it in maps",
          checked="6.3"),
    Claim("upper-prefix-matching", "figure-10", "the later half of the layers has more than half of the prefix "
          "matching",
          "in_last_layers", {"kind": "prefix-matching", "layers": 0.5}, "more than", 0.5,
          "halves; the paper says from the 31st of 64 layers on", "6.3"),
    Claim("upper-copying", "figure-10", "the last three eighths of the layers have more than half of the copying",
          "in_last_layers", {"kind": "copying", "layers": 0.375}, "more than", 0.5,
          "more than half; the paper says that most of the heads lie from the 41st of 64 layers on", "6.3"),
    Claim("few-shot-prefix-matching", "figure-11", "without the 40 % of heads of lowest mean importance, more prefix "
          "matching is left by importance at 5 shots than at 0", "retained_by_mean_at",
          {"kind": "prefix-matching", "pruned": "0.4", "shots": 5, "over": 0}, ours="at 40 % of the heads",
          checked="6.3.1"),
)  # fmt: skip
