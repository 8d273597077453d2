"""glip-export info: what a bundle holds."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from glip_export.cli.console import console, megabytes
from glip_export.cli.options import BundleArgument, JsonOption, bundle_or_newest
from glip_export.cli.outputs import bundle_files, check_outputs

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig, TaskConfig


def info(
    bundle: BundleArgument = None,
    json: JsonOption = None,
) -> None:
    """Show what a bundle holds: its model, graphs, sizes, and the checkpoint it came from."""

    where = bundle_or_newest(bundle)
    check_outputs({"--json": json}, bundle_files(where))
    run(where, json)


def run(path: Path, json: Path | None) -> None:
    """Prints the bundle's contents, its hashes checked; writes its manifest's fields and its engines' as JSON."""
    from glip_export.bundle import Bundle
    from glip_export.bundle.baked_file import is_baked
    from glip_export.bundle.files import atomic_write_text
    from glip_export.bundle.manifest import manifest_to_json
    from glip_export.cli.engine_table import engine_table
    from glip_export.graphs.contracts import graphs_of
    from glip_export.runtime.backends import automatic
    from glip_export.trt.engine_set import engine_sets
    from glip_export.trt.gpus import engine_targets

    if is_baked(path):
        from glip_export.cli.baked_table import show_baked

        show_baked(path, json)
        return
    bundle = Bundle.open(path, anew=True)
    facts = Table.grid(padding=(0, 2))
    config = bundle.config
    size = "any multiple of 32" if bundle.image_size is None else "{}x{}".format(*bundle.image_size)
    several, resized = config.detection.several_scales, f"{config.image.min_size}/{config.image.max_size}"
    for key, value in (
        ("bundle", f"{bundle.path} (all SHA-256 right)"),
        ("model", config.name),
        *([("structure", unlike)] if (unlike := _structure(config)) else []),
        ("made", f"{bundle.created}, {', '.join(f'{name} {number}' for name, number in bundle.versions.items())}"),
        ("weights", f"{bundle.weights.path}{', the averaged ones' if bundle.weights.ema else ''}"),
        ("SHA-256", bundle.weights.sha256),
        ("precision", f"{bundle.precision}{_quantization(bundle)}"),
        ("input size", f"{size}{'' if several else f'; pictures are resized to {resized}'}"),
        ("text", f"up to {config.text.max_query_len} tokens a caption, scores by {config.detection.score_agg}"),
        *([("scales", scales)] if (scales := _scales(config)) else []),
        ("detections", _detections(config)),
        *([("eval asks", asked)] if (asked := _asked(config.task)) else []),
        ("auto takes", ": ".join(automatic(bundle))),
    ):
        facts.add_row(Text(key, style="bold"), str(value))
    graphs = Table()
    for column in ("graph", "opset", "nodes", "parameters", "MB", "inputs", "outputs"):
        graphs.add_column(column, justify="right" if column in ("opset", "nodes", "parameters", "MB") else "left")
    for name, spec in graphs_of(config).items():
        graph = bundle.graphs[name]
        graphs.add_row(
            name,
            str(graph.opset),
            str(graph.nodes),
            f"{graph.parameters / 1e6:.1f} M",
            megabytes(graph.bytes),
            ", ".join(spec.input_names),
            ", ".join(spec.output_names),
        )
    sets = engine_sets(bundle)
    if json is not None:
        targets = {engines.folder.name: engine_targets(engines.flavor, engines.recipe, engines.gpu) for engines in sets}
        engines_json = {
            engines.folder.name: {**engines.to_json(), "compute_capabilities": targets[engines.folder.name]}
            for engines in sets
        }
        contents = {**manifest_to_json(bundle), "engines": engines_json}
        atomic_write_text(json, json_module.dumps(contents, indent=2) + "\n")
    for table in (facts, graphs, *map(engine_table, sets)):
        console.print(table)
    if json is not None:
        console.print(f"Wrote {json}", soft_wrap=True)


def _structure(config: GlipConfig) -> str:
    """How the model is built otherwise than the published ones."""
    swin, head, text = config.swin, config.head, config.text
    fuses = {"MHA-B": "", "MHA-S": "MHA-S" if head.layer_scale else "MHA-S without layer scale"}
    parts = [
        f"Swin {swin.version}" if swin.version != "v1" else "",
        "Swin with layer scale" if swin.is_v2 and swin.layer_scale else "",
        "Swin without output norms" if swin.is_v2 and not swin.output_norms else "",
        "Swin with position embedding" if swin.position_embedding else "",
        f"mean of BERT's last {text.n_layers} layers" if text.n_layers > 1 else "",
        "[CLS] and [SEP] masked" if text.mask_special else "",
        fuses.get(head.fusion, f"{head.fusion!r}, which fuses nothing") if head.early_fusion else "",
        "each level fused apart" if head.early_fusion and head.fusion == "MHA-B" and head.separates_levels else "",
        "logits from BERT's text" if head.early_fusion and not head.fused_dot_product else "",
        "logits from Swin's text" if swin.fuses_text and not head.early_fusion and head.fused_dot_product else "",
        "prompt-tuned" if head.prompt_table else "",
    ]
    return ", ".join(filter(None, parts))


def _quantization(bundle: Bundle) -> str:
    """What an int8 bundle was calibrated on, and what of it is float; "" for others."""
    done = bundle.extra.get("quantization")
    if not isinstance(done, dict):
        return ""
    words = [f"{done.get('pictures')} pictures, {done.get('names')} names, {done.get('method')}"]
    words.append(f"float: {', '.join(done.get('float') or ['nothing that can be int8'])}")
    size = sum(graph.bytes for graph in bundle.graphs.values())
    if before := (done.get("of") or {}).get("bytes"):
        words.append(f"{size / before:.1%} of the fp32 bundle's size")
    if ap := done.get("ap"):
        words.append(f"AP {ap['int8']:.3f}, of fp32 {ap['fp32']:.3f}")
    return f" ({'; '.join(words)})"


def _scales(config: GlipConfig) -> str:
    """At which scales pictures are seen, where there are several."""
    if not config.detection.several_scales:
        return ""
    own = config.multiscale
    sizes = f"{', '.join(map(str, own.scales))}, long side up to {own.max_size}"
    return f"{sizes}{', each mirrored too' if own.flip else ''}{', boxes of certain sizes each' if own.ranges else ''}"


def _detections(config: GlipConfig) -> str:
    """How many there may be, and how those of several scales become one list."""
    if not config.detection.several_scales:
        return f"{config.detection.detections_per_image} a picture"
    own = config.multiscale
    word = own.special_nms if own.special_nms in ("vote", "soft-vote", "soft-nms") else "NMS"
    merged = f"merged by {word} at {own.threshold:g}" if own.threshold > 0 else "not merged"
    names = (
        f"names {', '.join(map(str, own.select_classes))}"
        if own.select_classes
        else f"the first {own.num_classes - 1} names"
    )
    return f"{f'{own.most} a picture' if own.most > 0 else 'any number'}, {merged}, of {names}"


def _asked(task: TaskConfig) -> str:
    """What evaluations ask for, where the configuration says otherwise than by the annotation file's names."""
    parts = [
        f"{len(task.categories)} categories of its own" if task.categories else "",
        f"by words for {len(task.words)} categories, such as {''.join(vars(task.words[0]).values())!r}"
        if task.words
        else "",
        f"with {len(task.unscored)} names that count for nothing" if task.unscored else "",
    ]
    return ", ".join(part for part in parts if part)
