"""A task's settings (ODinW: categories, and prefix, name, suffix of each) as KEY VALUE, as its YAML holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glip_export.config import (
    CaptionWords,
    GlipConfig,
    TaskCategory,
    TaskConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)
from glip_export.errors import ConfigError

TINY = Path(__file__).parents[1] / "data" / "oracle" / "full_dump"
HOLE = '[{"prefix": "there is some ", "name": "hole", "suffix": " on the road"}]'
# As the published YAMLs hold them: Python, not JSON.
FISH = "[{'id': 1, 'name': 'fish', 'supercategory': 'creatures'}, {'id': 2, 'name': 'jellyfish'}, ]"
WORDS = """[{"prefix": " ", "name": "fish", "suffix": ""},
    {"prefix": "", "name": "penguin", "suffix": " , which is black and white", }, ]"""
USE = ("DATASETS.USE_CAPTION_PROMPT", "True")


def load(*overrides: str) -> GlipConfig:
    return load_config(TINY / "config.yaml", overrides, TINY / "bert_config.json")


def test_caption_prompt_is_honoured() -> None:
    plain, config = load(), load(*USE, "DATASETS.CAPTION_PROMPT", HOLE)
    assert config != plain and plain.task == TaskConfig()
    assert config.task.words == (CaptionWords("there is some ", "hole", " on the road"),)
    many = load(*USE, "DATASETS.CAPTION_PROMPT", WORDS)
    assert many.task.words == (
        CaptionWords(" ", "fish", ""),
        CaptionWords("", "penguin", " , which is black and white"),
    )


def test_caption_prompt_counts_only_where_it_is_used() -> None:
    config = load(
        "DATASETS.CAPTION_PROMPT", HOLE, "DATASETS.OVERRIDE_CATEGORY", FISH, "DATASETS.SUPRESS_QUERY", "['a']"
    )
    assert config.task.words == () and config.task.categories == () and config.task.unscored == ()
    assert load(*USE).task.words == ()  # as in the original, a prompt of None is the names


def test_override_category_and_suppress_query() -> None:
    task = load(
        *("DATASETS.USE_OVERRIDE_CATEGORY", "True", "DATASETS.OVERRIDE_CATEGORY", FISH),
        *("DATASETS.USE_SUPRESS_QUERY", "True", "DATASETS.SUPRESS_QUERY", "('sea weed', 'sand',)"),
    ).task
    assert task.categories == (TaskCategory(1, "fish"), TaskCategory(2, "jellyfish"))
    assert task.unscored == ("sea weed", "sand")


def test_task_settings_in_the_models_own_yaml(tmp_path: Path) -> None:
    text = (TINY / "config.yaml").read_text().replace("USE_CAPTION_PROMPT: false", "USE_CAPTION_PROMPT: true")
    as_text = text.replace("CAPTION_PROMPT: null", f"CAPTION_PROMPT: '{HOLE}'")
    as_list = text.replace("CAPTION_PROMPT: null", f"CAPTION_PROMPT: {HOLE}")
    (tmp_path / "text.yaml").write_text(as_text)
    (tmp_path / "list.yaml").write_text(as_list)
    found = [load_config(tmp_path / name, (), TINY / "bert_config.json").task for name in ("text.yaml", "list.yaml")]
    assert found[0] == found[1] and found[0].words[0].name == "hole"


def test_caption_prompt_of_a_yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text("- {prefix: 'a ', name: hole, suffix: ' in the street'}\n")
    assert load(*USE, "DATASETS.CAPTION_PROMPT", "words.yaml").task.words == (
        CaptionWords("a ", "hole", " in the street"),
    )
    with pytest.raises(ConfigError, match=r"CAPTION_PROMPT none\.yaml \(override\) .*No such file"):
        load(*USE, "DATASETS.CAPTION_PROMPT", "none.yaml")
    assert load("DATASETS.CAPTION_PROMPT", "none.yaml").task.words == ()  # a path is opened only where it is used


def test_most_names() -> None:
    assert load().detection.most_names == -1
    assert load("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", "100").detection.most_names == 100
    for wrong in ("0", "-2"):
        with pytest.raises(ConfigError, match=r"^TEST\.MDETR_STYLE_AGGREGATE_CLASS_NUM"):
            load("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", wrong)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CAPTION_PROMPT", "[{'prefix': 'a ', 'name': 'fish'}]", "entry 1 is .*not the texts {prefix, name, suffix}"),
        ("CAPTION_PROMPT", "[{'prefix': 'a ', 'name': ' ', 'suffix': ''}]", "entry 1 is "),
        ("CAPTION_PROMPT", "['fish']", "entry 1 is fish, not"),
        ("CAPTION_PROMPT", "[]", "expected a list of {prefix, name, suffix}"),
        ("CAPTION_PROMPT", "{'prefix': 'a '}", "expected a list of"),
        ("CAPTION_PROMPT", "[{'prefix': 'a ', 'name'", "neither a list of .* nor a YAML file"),
        ("CAPTION_PROMPT", "5", "expected a list of"),
        ("OVERRIDE_CATEGORY", "[{'id': '1', 'name': 'fish'}]", "entry 1 is .*a whole number and a text"),
        ("OVERRIDE_CATEGORY", "[{'id': 1, 'name': 'a'}, {'id': 1, 'name': 'b'}]", "entry 2 has the id 1 of an earlier"),
        ("OVERRIDE_CATEGORY", "fish.yaml", "expected a list of {id, name}"),
        ("OVERRIDE_CATEGORY", "[]", "expected a list of {id, name}"),
        ("SUPRESS_QUERY", "sand", "expected a list of names"),
        ("SUPRESS_QUERY", "['']", "entry 1 is '', not a name"),
    ],
)
def test_settings_that_cannot_be_read(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(f"DATASETS.USE_{key}", "True", f"DATASETS.{key}", value)
    assert str(caught.value).startswith(f"DATASETS.{key} ") and "\n" not in str(caught.value)


def test_the_manifest_carries_the_task() -> None:
    config = load(
        *("DATASETS.USE_OVERRIDE_CATEGORY", "True", "DATASETS.OVERRIDE_CATEGORY", FISH),
        *(*USE, "DATASETS.CAPTION_PROMPT", WORDS, "DATASETS.SUPRESS_QUERY", "['sand']"),
        *("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", "100"),
    )
    data = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(data) == config
    data["task"]["caption_prompt"][1]["suffix"] = 3
    with pytest.raises(ConfigError, match=r"task\.caption_prompt\.1\.suffix 3: expected str"):
        config_from_dict(data)
    data["task"]["caption_prompt"] = "fish"
    with pytest.raises(ConfigError, match=r"task\.caption_prompt fish"):
        config_from_dict(data)


def test_manifests_from_before_have_no_task() -> None:
    data = json.loads(json.dumps(config_to_dict(GlipConfig())))
    del data["task"], data["detection"]["most_names"]
    assert config_from_dict(data) == GlipConfig()
