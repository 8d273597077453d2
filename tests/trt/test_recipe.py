"""Recipes: what the shipped ones say, which one a bundle takes, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glip_export.config import GlipConfig, SwinConfig, TextConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import FUSION_HEAD, TEXT_ENCODER, VISION_BACKBONE
from glip_export.trt import recipe as recipe_module
from glip_export.trt.recipe import Profile, Range, Recipe, read_recipe, recipe_for, shipped_recipes

CONFIG = GlipConfig()
LARGE = GlipConfig(swin=SwinConfig(embed_dim=192))
GOOD = "profiles:\n  - {B: [1, 1, 4], H: [64, 800, 1344], W: [64, 1216, 1344], T: [1, 16, 256], K: [1, 8, 80]}\n"


def sizes(recipe: Recipe, axis: str) -> tuple[int, int, int]:
    """(min, opt, max) of an axis in the first profile."""
    found = getattr(recipe.profiles[0], axis)
    return found.min, found.opt, found.max


def test_the_shipped_recipes_can_be_read() -> None:
    recipes = {name: read_recipe(path) for name, path in shipped_recipes().items()}
    assert sorted(recipes) == ["glip_l", "glip_t", "jetson", "static_800x1216"]
    for recipe in recipes.values():
        # Whatever the original's resizing gives: short side 800, long side 1333, in multiples of 32.
        static = recipe.name == "static_800x1216"
        assert sizes(recipe, "H") == ((800, 800, 800) if static else (64, 800, 1344))
        assert sizes(recipe, "W") == ((1216, 1216, 1216) if static else (64, 1216, 1344))
        assert sizes(recipe, "B")[2] >= 3 or recipe.name == "jetson"  # glip-bench's batch
        assert sizes(recipe, "T")[0] == sizes(recipe, "K")[0] == len(recipe.profiles) == 1
    assert recipes["jetson"].workspace_mb == 1024
    assert recipes["glip_t"] == Recipe("glip_t", recipes["glip_t"].profiles)  # it spells out every default


def test_the_example_recipe_explains_every_key() -> None:
    text = shipped_recipes()["glip_t"].read_text()
    for field in dataclasses.fields(Recipe):
        assert field.name == "name" or f"\n{field.name}: " in text or f"\n{field.name}:\n" in text


def test_shapes_follow_the_contract() -> None:
    shapes = read_recipe(shipped_recipes()["glip_t"]).profiles[0].shapes(FUSION_HEAD, CONFIG)
    assert {name: shape["opt"] for name, shape in shapes.items()} == {
        "p3": [1, 256, 100, 152],
        "p4": [1, 256, 50, 76],
        "p5": [1, 256, 25, 38],
        "p6": [1, 256, 13, 19],
        "p7": [1, 256, 7, 10],
        "text_features": [1, 16, 768],
        "attention_mask": [1, 16],
        "class_map": [1, 16, 8],
        "image_sizes": [1, 2],
    }
    assert shapes["p7"]["min"] == [1, 256, 1, 1] and shapes["p7"]["max"] == [4, 256, 11, 11]
    profile = read_recipe(shipped_recipes()["static_800x1216"]).profiles[0]
    assert profile.shapes(VISION_BACKBONE, CONFIG) == {
        "images": {"min": [1, 3, 800, 1216], "opt": [1, 3, 800, 1216], "max": [4, 3, 800, 1216]}
    }
    assert profile.shapes(TEXT_ENCODER, CONFIG)["input_ids"] == {"min": [1, 1], "opt": [1, 16], "max": [4, 256]}


def test_the_recipe_that_fits() -> None:
    assert recipe_for(CONFIG).name == "glip_t"
    assert recipe_for(LARGE).name == "glip_l"
    short = GlipConfig(text=TextConfig(max_query_len=12))
    assert sizes(recipe_for(short), "T") == (1, 12, 12)
    static = recipe_for(LARGE, (512, 768))
    assert static.name == "static_800x1216"
    assert sizes(static, "H") == (512, 512, 512) and sizes(static, "W") == (768, 768, 768)
    assert sizes(static, "B") == (1, 1, 4)


def test_a_recipe_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for(CONFIG, recipe="jetson").name == "jetson"
    (tmp_path / "mine.yaml").write_text(GOOD)
    mine = recipe_for(CONFIG, recipe=tmp_path / "mine.yaml")
    assert mine.name == "mine" and sizes(mine, "K") == (1, 8, 80)
    assert recipe_for(CONFIG, recipe=mine) is mine
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jetson").write_text(GOOD)  # a file comes before a shipped name
    assert recipe_for(CONFIG, recipe="jetson").profiles[0].K.max == 80
    with pytest.raises(GlipExportError, match=r"there is no recipe none\.yaml: give a YAML file, or glip_l or glip_t"):
        recipe_for(CONFIG, recipe="none.yaml")


def test_a_given_recipe_must_fit_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    with pytest.raises(GlipExportError, match="mine: T goes up to 256, but this model's captions hold 64 tokens"):
        recipe_for(GlipConfig(text=TextConfig(max_query_len=64)), recipe=tmp_path / "mine.yaml")
    with pytest.raises(GlipExportError, match="pictures are 800x1216 only; write H: 800 and W: 1216"):
        recipe_for(CONFIG, (800, 1216), tmp_path / "mine.yaml")
    assert sizes(recipe_for(CONFIG, (800, 1216), "static_800x1216"), "H") == (800, 800, 800)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: [", "not valid YAML"),
        ("- a", "should be keys and values"),
        ("", "should be keys and values"),
        ("refit: true", "profiles is a list of one or more"),
        (GOOD + "workspce_mb: 5", "there is no key workspce_mb; did you mean workspace_mb?"),
        (GOOD + "zzzzzz: 5", "there is no key zzzzzz; the keys are compute_capabilities, hardware"),
        (GOOD.replace("K:", "N:"), "profiles: there is no key N; the keys are B, H, K, T, W"),
        (GOOD.replace(", K: [1, 8, 80]", ""), r"K is missing: how many classes, as \[min, opt, max\]"),
        (GOOD.replace("[1, 8, 80]", "[1, 80]"), r"K is one whole number or \[min, opt, max\], rising, of classes"),
        (GOOD.replace("[1, 8, 80]", "[1, 80, 8]"), "K is one whole number"),
        (GOOD.replace("[1, 8, 80]", "[0, 8, 80]"), "K is one whole number"),
        (GOOD.replace("[1, 8, 80]", "true"), "K is one whole number"),
        (GOOD.replace("[1, 8, 80]", "1.5"), "K is one whole number"),
        (GOOD.replace("H: [64, 800, 1344]", "H: 810"), "H is in multiples of 32 from 64 to 8192, not 810"),
        (GOOD.replace("H: [64, 800, 1344]", "H: 32"), "H is in multiples of 32 from 64 to 8192, not 32"),
        (GOOD.replace("H: [64, 800, 1344]", "H: 8224"), "H is in multiples of 32 from 64 to 8192, not 8224"),
        (GOOD + "refit: 1", "refit is true or false, not 1"),
        (GOOD + "workspace_mb: 0", "workspace_mb is null or a whole number from 1 to"),
        (GOOD + "optimization_level: 6", "optimization_level is null or a whole number from 0 to 5, not 6"),
        (GOOD + "hardware: any", "hardware is one of this_gpu, same_compute_capability, ampere_plus, not any"),
        (GOOD + "compute_capabilities: 86", r"compute_capabilities is a list such as \[8.6, 8.9\], not 86"),
        (GOOD + "compute_capabilities: [sm_86]", "compute_capabilities is a list such as"),
        (
            GOOD + "compute_capabilities: [8.6, 9.0]",
            r"compute_capabilities: TensorRT for RTX has no code for 9\.0 \(H100, H200, GH200\), only for 7\.5, 8\.0",
        ),
        (GOOD + "compute_capabilities: [8.7]", r"has no code for 8\.7 \(Jetson Orin\)"),
        (GOOD + "compute_capabilities: [13.0]", r"has no code for 13\.0, only for"),
    ],
)
def test_wrong_recipes_are_one_helpful_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(GlipExportError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00" * 9)
    with pytest.raises(GlipExportError, match="not a text file, so not a recipe"):
        read_recipe(tmp_path / "mine.yaml")
    with pytest.raises(GlipExportError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.yaml")


def test_options_of_the_flavors() -> None:
    recipe = Recipe("mine", (), version_compatible=True, hardware="ampere_plus", compute_capabilities=("8.6",))
    both = {"workspace_mb": None, "optimization_level": None, "refit": False, "strip_weights": False}
    assert recipe.options("tensorrt_rtx") == {**both, "compute_capabilities": ("8.6",)}
    assert recipe.options("tensorrt") == {**both, "version_compatible": True, "hardware": "ampere_plus"}


def test_several_profiles_and_numbers(tmp_path: Path) -> None:
    second = "  - {B: 1, H: 800, W: 1216, T: 194, K: 80}\nworkspace_mb: 512\ncompute_capabilities: [8.6, 12.0]\n"
    (tmp_path / "two.yaml").write_text(GOOD + second)
    recipe = read_recipe(tmp_path / "two.yaml")
    side = Range(800, 800, 800), Range(1216, 1216, 1216)
    assert recipe.profiles[1] == Profile(Range(1, 1, 1), *side, Range(194, 194, 194), Range(80, 80, 80))
    assert (recipe.workspace_mb, recipe.compute_capabilities) == (512, ("8.6", "12.0"))
    assert recipe.to_json()["profiles"][1]["T"] == {"min": 194, "opt": 194, "max": 194}


def test_recipes_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "glip_export" / "trt"
    monkeypatch.setattr(recipe_module, "__file__", str(package / "recipe.py"))
    with pytest.raises(GlipExportError, match=r"was installed without its recipe glip_t\.yaml: give one with --recipe"):
        recipe_for(CONFIG)
    (package / "recipes").mkdir(parents=True)
    (package / "recipes" / "glip_t.yaml").write_text(GOOD)
    assert shipped_recipes() == {"glip_t": package / "recipes" / "glip_t.yaml"}
    assert sizes(recipe_for(CONFIG), "K") == (1, 8, 80)
