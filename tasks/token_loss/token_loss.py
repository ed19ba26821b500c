"""The loss of an early token of a text minus that of a late one: how much a model gains from what it has read.

Tokens are the model's own, counted without a BOS: with `early=50` and `late=500`, the tokens behind 50 and behind 500
tokens. A request is a pair of texts, so only texts are taken whose parts are tokenised as they stand in the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from lm_eval.api.task import ConfigurableTask

from lm_eval_prune.demo import bundled_model_path, is_bundled
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness.releases import request

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

EARLY, LATE = 50, 500
NAMED = (
    "token_loss counts tokens by the model's tokenizer: give --metadata tokenizer=NAME, or pretrained=... of the model"
)


class TokenLoss(ConfigurableTask):
    """Two requests a text: its early token behind what comes before it, and its late one."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        pairs = [(doc[f"{name}_context"], doc[name]) for name in ("early", "late")]
        return [
            request("loglikelihood", doc, pair, place, task=self.task_name, **kwargs)
            for place, pair in enumerate(pairs)
        ]


def losses(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """A document's metrics. In the YAML file as `process_results`: only there the harness takes them for ours."""
    early, late = (-float(answer[0]) for answer in results)
    return {"token_loss_difference": early - late, "loss_early": early, "loss_late": late}


def load_positions(
    *,
    texts: str | None = None,
    dataset: str | None = None,
    dataset_name: str | None = None,
    dataset_split: str = "test",
    text_field: str = "text",
    early: int = EARLY,
    late: int = LATE,
    **metadata: Any,
) -> datasets.DatasetDict:
    """A document for each text that is long enough: both tokens, and what comes before them.

    Raises ArgumentError where no tokenizer is named, the model does not read that far, or no text is left.
    """
    early, late = int(early), int(late)
    if not 1 <= early < late:
        raise ArgumentError(f"token_loss: early={early}, late={late}; expected 1 or more, and a later one")
    tokenizer = _tokenizer(metadata, late)
    given = _read(texts) if texts else _of_dataset(dataset, dataset_name, dataset_split, text_field)
    documents = [found for text in given if (found := _positions(tokenizer, text, early, late))]
    if not documents:
        raise ArgumentError(
            f"token_loss: no text of {texts or dataset} has {late + 1} tokens that are the same when it is cut there"
        )
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})


def _tokenizer(metadata: dict[str, Any], late: int) -> Any:
    """The tokenizer of the model that the metadata names, which reads `late` tokens and a BOS."""
    from transformers import AutoConfig, AutoTokenizer

    name, trust = metadata.get("pretrained"), bool(metadata.get("trust_remote_code", False))
    if name is None and metadata.get("tokenizer") is None:
        raise ArgumentError(NAMED)
    places = [bundled_model_path() if is_bundled(each) else each for each in (name, metadata.get("tokenizer"))]
    model, tokenizer = (
        (None if name is None else places[0]),
        (places[0] if metadata.get("tokenizer") is None else places[1]),
    )
    revision = metadata.get("revision", "main")
    longest = metadata.get("max_length")
    if model is not None:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust).get_text_config()
        longest = longest or getattr(config, "max_position_embeddings", None)
    if longest is not None and int(longest) < late + 1:
        raise ArgumentError(f"token_loss: {name} reads {longest} tokens; the token behind {late} needs {late + 1}")
    return AutoTokenizer.from_pretrained(tokenizer, revision=revision, trust_remote_code=trust)


def _read(path: str) -> Iterator[str]:
    """The texts of a file: of JSON lines one each, a text file is one."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"texts={path}: cannot be read: {error}") from None
    if not path.endswith((".jsonl", ".json")):
        yield content
        return
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise ArgumentError(f'{path}: line {number}: expected a JSON object with a "text"')
        yield text


def _of_dataset(name: str | None, configuration: str | None, split: str, field: str) -> Iterator[str]:
    if name is None:
        raise ArgumentError("token_loss needs texts: --metadata texts=FILE, or dataset=NAME")
    for row in datasets.load_dataset(name, configuration, split=split):
        yield row[field]


def _positions(tokenizer: Any, text: str, early: int, late: int) -> dict[str, str] | None:
    """None for a text that is too short, or that is tokenised otherwise where it is cut."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: late + 1]
    if len(ids) <= late:
        return None
    found: dict[str, str] = {}
    for name, count in (("early", early), ("late", late)):
        whole, context = (_text(tokenizer, ids[:end]) for end in (count + 1, count))
        cut = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (context, whole)]
        # The harness moves blanks at a context's end behind it: they would be answers too.
        if cut != [ids[:count], ids[: count + 1]] or not whole.startswith(context) or context != context.rstrip():
            return None
        found |= {f"{name}_context": context, name: whole[len(context) :]}
    return found


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
