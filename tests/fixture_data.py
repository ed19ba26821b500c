"""Small made-up data sets of the shape of the 14 tasks, MathQA and LAMBADA, in folders named as those on the hub.

`datasets.load_dataset("Rowan/hellaswag")` takes a folder of that relative name, where there is one, before it looks
anywhere else; so a test that runs inside the written folder uses the harness's own task definitions offline.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = ["river", "stone", "garden", "window", "letter", "candle", "market", "summer", "winter", "teacher", "forest"]
LETTERS = ["A", "B", "C", "D"]


class _Writer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def words(self, low: int = 3, high: int = 9) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(low, high)))

    def sentence(self) -> str:
        return self.words().capitalize() + "."

    def hellaswag(self, index: int) -> dict:
        a, b = self.sentence(), self.words(2, 3).capitalize()
        endings = [self.words() + "." for _ in range(4)]
        row = {"ind": index, "activity_label": self.words(1, 2), "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}"}
        return {**row, "endings": endings, "source_id": "", "split_type": "", "label": str(self.random.randrange(4))}

    def piqa(self, index: int) -> dict:
        return {"goal": self.sentence(), "sol1": self.sentence(), "sol2": self.sentence(), "label": index % 2}

    def arc(self, index: int) -> dict:
        choices = {"text": [self.words(1, 3) for _ in LETTERS], "label": LETTERS}
        return {"id": f"q{index}", "question": self.sentence(), "choices": choices, "answerKey": LETTERS[index % 4]}

    def openbookqa(self, index: int) -> dict:
        row = self.arc(index)
        row["question_stem"] = row.pop("question").rstrip(".")
        return row

    def winogrande(self, index: int) -> dict:
        names = self.random.sample(["Sarah", "Maria", "Peter", "Karim"], 2)
        sentence = f"{names[0]} met {names[1]} near the {self.words(1, 1)} and _ saw the {self.words(1, 2)}."
        return {"sentence": sentence, "option1": names[0], "option2": names[1], "answer": str(index % 2 + 1)}

    def boolq(self, index: int) -> dict:
        return {"question": "is the " + self.words(2, 4), "passage": self.sentence(), "idx": index, "label": index % 2}

    def cb(self, index: int) -> dict:
        return {"premise": self.sentence(), "hypothesis": self.words(), "idx": index, "label": index % 3}

    def copa(self, index: int) -> dict:
        row = {"premise": self.sentence(), "choice1": self.sentence(), "choice2": self.sentence()}
        return {**row, "question": ["cause", "effect"][index % 2], "idx": index, "label": self.random.randrange(2)}

    def wic(self, index: int) -> dict:
        word = self.random.choice(WORDS)
        row = {"word": word, "sentence1": f"The {word} here.", "sentence2": f"A {word} there."}
        return {**row, "start1": 4, "start2": 2, "end1": 8, "end2": 6, "idx": index, "label": index % 2}

    def wsc(self, index: int) -> dict:
        text = f"{self.random.choice(['Anna', 'Boris'])} saw the {self.words(1, 1)} because she was near it ."
        row = {"text": text, "span1_index": 0, "span1_text": text.split()[0]}
        return {**row, "span2_index": 5, "span2_text": "she", "idx": index, "label": index % 2}

    def multirc(self, index: int) -> dict:
        row = {"paragraph": self.sentence() * 2, "question": self.sentence().replace(".", "?"), "answer": self.words()}
        return {**row, "idx": {"paragraph": 0, "question": index // 2, "answer": index}, "label": index % 2}

    def record(self, index: int) -> dict:
        entities = self.random.sample(["Anna", "Boris", "Paris", "Acme Corp", "the River"], 3)
        passage = f"{entities[0]} went to {entities[1]} with {entities[2]}.\n@highlight\n{self.sentence()}"
        row = {"passage": passage, "query": "Then @placeholder " + self.words(), "entities": entities}
        return {**row, "answers": entities[:1], "idx": {"passage": index, "query": index}}

    def rte(self, index: int) -> dict:
        return {"premise": self.sentence(), "hypothesis": self.sentence(), "idx": index, "label": index % 2}

    def mathqa(self, index: int) -> dict:
        options = " , ".join(f"{letter} ) {self.random.randrange(100)}" for letter in "abcde")
        return {"Problem": self.sentence(), "Rationale": "", "options": options, "correct": "abcde"[index % 5]}

    def lambada(self, index: int) -> dict:
        return {"text": f"{self.sentence()} {self.words()}"}

    def glue_rte(self, index: int) -> dict:
        return {"sentence1": self.sentence(), "sentence2": self.sentence(), "label": index % 2, "idx": index}


# folder -> {configuration: (the _Writer method that makes a row, the splits)}
DATA_SETS = {
    "Rowan/hellaswag": {"default": ("hellaswag", ("train", "validation"))},
    "baber/piqa": {"default": ("piqa", ("train", "validation"))},
    "allenai/ai2_arc": {
        "ARC-Easy": ("arc", ("train", "validation", "test")),
        "ARC-Challenge": ("arc", ("train", "validation", "test")),
    },
    "allenai/openbookqa": {"main": ("openbookqa", ("train", "validation", "test"))},
    "allenai/winogrande": {"winogrande_xl": ("winogrande", ("train", "validation"))},
    "aps/super_glue": {
        **{
            name: (name, ("train", "validation")) for name in ("boolq", "cb", "copa", "wic", "multirc", "record", "rte")
        },
        "wsc.fixed": ("wsc", ("train", "validation")),
    },
    "nyu-mll/glue": {"rte": ("glue_rte", ("train", "validation"))},
    # Outside the 14: what the study transfers their mean importance to.
    "regisss/math_qa": {"default": ("mathqa", ("train", "validation", "test"))},
    "EleutherAI/lambada_openai": {"default": ("lambada", ("test",))},
}


def write_all(folder: Path, rows: int = 8) -> Path:
    """Write every data set below `folder`, `rows` documents a split, and return `folder`."""
    for name, configurations in DATA_SETS.items():
        header = ["---", "configs:"]
        for configuration, (method, splits) in configurations.items():
            header += [f"- config_name: {configuration}", "  data_files:"]
            for number, split in enumerate(splits):
                path = Path(configuration, f"{split}.jsonl")
                writer = _Writer(seed=number)
                lines = [json.dumps(getattr(writer, method)(index)) for index in range(rows)]
                (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / name / path).write_text("\n".join(lines) + "\n")
                header += [f"  - split: {split}", f"    path: {path}"]
        (folder / name / "README.md").write_text("\n".join([*header, "---", ""]))
    return folder
