"""The sizes of a BERT, from a transformers config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from glip_export.config.restore import restore
from glip_export.config.yacs import read_small_text, show
from glip_export.errors import ConfigError

# What transformers' BertConfig may say and we rebuild; a field that is absent has the first value.
BERT_RULES = {"model_type": ("bert",), "hidden_act": ("gelu",), "position_embedding_type": ("absolute", None)}
PACKAGED_VOCABULARY = 30522  # tokens of data/bert_base_uncased_vocab.txt


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the text encoder (--bert-config; bert-base-uncased by default)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


def read_bert_config(path: Path) -> BertConfig:
    """A transformers config.json of a BERT; fields that say nothing of its sizes are ignored.

    Raises ConfigError, naming the file and field.
    """
    path = Path(path)
    text = read_small_text(path, "BERT configuration")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a BERT configuration in JSON: {error}") from error
    known = {item.name for item in fields(BertConfig)}
    if not isinstance(data, dict) or not known & data.keys():
        raise ConfigError(f"{path}: no BERT configuration: none of hidden_size, num_hidden_layers, ... is in it")
    for name, accepted in BERT_RULES.items():
        if data.get(name, accepted[0]) not in accepted:
            raise ConfigError(f"{path}: {name} {show(data[name])} is not supported: only {accepted[0]} is rebuilt")
    given = {name: value for name, value in data.items() if name in known}
    bert: BertConfig = restore(BertConfig, {**asdict(BertConfig()), **given}, f"{path}: ", "")
    for name, value in asdict(bert).items():
        if value <= 0:
            raise ConfigError(f"{path}: {name} {value} is not supported: expected a number above 0")
    if bert.hidden_size % bert.num_attention_heads:
        raise ConfigError(f"{path}: num_attention_heads {bert.num_attention_heads} must divide {bert.hidden_size}")
    if bert.vocab_size < PACKAGED_VOCABULARY:
        raise ConfigError(f"{path}: vocab_size {bert.vocab_size} is less than bert-base-uncased's 30522 tokens")
    return bert
