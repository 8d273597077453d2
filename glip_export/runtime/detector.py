"""The Detector: pictures and a prompt in, detections out, on any backend."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.baked_file import is_baked
from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError, ImageError, PromptError
from glip_export.hints import Hinter
from glip_export.image import (
    U8,
    ImageBatch,
    Picture,
    load_image,
    pad,
    picture_name,
    resize,
    resize_shape,
    restore_boxes,
)
from glip_export.names import Name
from glip_export.prompt import Prompt, TokenizedChunk, class_map
from glip_export.results.detections import Detections, concatenate
from glip_export.runtime.backends import open_session
from glip_export.runtime.baked import check_unasked, held_prompt, open_baked, run_baked
from glip_export.runtime.cuda.pictures import device_batch, for_device, ready_for_pictures
from glip_export.runtime.encoded import EncodedImages, kept, pair, selected
from glip_export.runtime.multiscale import EncodedPass, EncodedScales, batch_of, detect_passes, lost_names, passes_of
from glip_export.runtime.session import F32, I64, Pyramid, Session
from glip_export.runtime.tokenized import Tokenized, of_each, sharing
from glip_export.trt.launches import up

TEXT_CACHE_BYTES = 50_000_000  # a caption of 256 tokens takes 0.8 MB, and 5.5 MB where its text runs ahead (MHA-S)


class Detector:
    """Detects what a prompt names in pictures.

    It holds one session of one backend; text features are kept for the captions last used. Not for use from several
    threads at once.
    """

    def __init__(
        self,
        session: Session,
        config: GlipConfig,
        image_size: tuple[int, int] | None = None,
        baked: BakedFile | None = None,
        *,
        gpu_preprocess: bool = False,
    ) -> None:
        """gpu_preprocess: see `open`; raises BackendError where the session or the model has no such thing."""
        if gpu_preprocess:
            ready_for_pictures(session, config)
        self.gpu_preprocess = gpu_preprocess
        self.session = session
        self.config = config
        self.image_size = image_size  # of a static bundle
        self.baked = baked  # a model that holds its vocabulary, in place of a bundle
        self._held = None if baked is None else held_prompt(baked)
        self._text: OrderedDict[str, F32] = OrderedDict()
        self._hinter = Hinter(lambda prompt: lost_names(prompt, config))

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        backend: str = "onnxruntime",
        threads: int | None = None,
        weights: str | Path | None = None,
        *,
        gpu_preprocess: bool = False,
    ) -> Detector:
        """Opens a bundle with a backend: torch, onnxruntime, openvino, openvino:bf16, or auto for the fastest.

        Or a baked model (.onnx), on onnxruntime or openvino, which detects without a prompt.
        threads: CPU threads. weights: for torch, where the checkpoint is now. gpu_preprocess: pictures are resized,
        normalised and padded on the GPU, to the same bits, and copied there as bytes. Raises BundleError if the bundle
        is damaged or no bundle, BackendError if the backend is unknown or cannot run.
        """
        if is_baked(bundle):
            file = BakedFile.open(bundle)
            baked = open_baked(file, backend, threads)
            return cls(baked, file.config, file.image_size, file, gpu_preprocess=gpu_preprocess)
        opened = Bundle.open(bundle)
        session = open_session(opened, backend, threads, None if weights is None else Path(weights))
        return cls(session, opened.config, opened.image_size, gpu_preprocess=gpu_preprocess)

    def reconfigured(self, config: GlipConfig) -> Detector:
        """One of the same session that goes by another configuration, which differs in what no graph depends on."""
        return Detector(self.session, config, self.image_size, self.baked, gpu_preprocess=self.gpu_preprocess)

    def detect(
        self,
        images: Sequence[Picture],
        prompt: str | Sequence[Name] | Prompt | Sequence[Prompt] | None = None,
        batch_size: int | None = None,
        chunk: int | None = None,
        *,
        class_agnostic_nms: bool = False,
    ) -> list[Detections]:
        """Detections of each picture, boxes in the picture's own pixels, scores falling.

        images: paths, PIL images or uint8 arrays (H, W, 3), run as ONE batch padded together as the original does
        (padding changes results), or in batches of batch_size. prompt: "cat. remote control", a list of names, or a
        Prompt; or a list of Prompt, one a picture; none for a baked model, which holds its own. One too long for the
        text encoder is split into captions over the same image features. chunk: names a caption (GLIP's
        TEST.CHUNKED_EVALUATION); None takes the configuration's.
        Where the bundle sees pictures at several scales (GLIP's TEST.USE_MULTISCALE), each batch runs at one after the
        other, and there is no limit on the detections but that of TEST.PRE_NMS_TOP_N.
        class_agnostic_nms: of boxes that overlap, whatever their names, only the best stays: after the model's own NMS
        of each class one over all, at its threshold (MODEL.ATSS.NMS_TH). Raises ImageError and PromptError; warns once
        (GlipExportWarning) of a prompt with words that the model does not know.
        """
        if isinstance(images, (str, Path, bytes, np.ndarray)) or not isinstance(images, Sequence):
            raise GlipExportError("detect takes a list of pictures; give [picture] for a single one")
        if batch_size is not None and batch_size < 1:
            raise GlipExportError(f"batch_size is {batch_size}; it is 1 or more")
        # A prompt that cannot be used is told before any picture is read.
        tokenized = self._tokenized(prompt, len(images), chunk)
        if self._held is None:
            for one in dict.fromkeys(each.prompt for each in tokenized):
                self._hinter.tell(one, stacklevel=2)
        size = 1 if self._takes_pixels else batch_size or max(len(images), 1)
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        results: list[Detections] = []
        ahead: ImageBatch | None = None
        for number, batch in enumerate(batches):
            done = number * size
            if self.config.detection.several_scales:
                results += self._detect_passes(self._passes(batch, done), tokenized[done : done + len(batch)])
                continue
            prepared = ahead or self._preprocess(batch, done)
            encoded = self.encode_batch(prepared)
            ahead = self._prefetch(batches[number + 1], done + size) if number + 1 < len(batches) else None
            results += self._detect_each(encoded, tokenized[done : done + len(batch)])
            del encoded  # its memory is for the next batch
        if class_agnostic_nms:
            results = [found.class_agnostic_nms(self.config.detection.nms_threshold) for found in results]
        return results

    def encode_images(self, images: Sequence[Picture]) -> EncodedImages | EncodedScales:
        """One batch through the vision backbone, for `detect_encoded` with as many prompts as wanted.

        A backbone that fuses text runs with each prompt instead, so that nothing is saved there. At several scales the
        features of all are held, which takes many times the memory of one; `detect` holds one at a time.
        """
        if self.config.detection.several_scales:
            return EncodedScales(tuple(self._passes(images)))
        return self.encode_batch(self._preprocess(images))

    def batch_of(self, pictures: Sequence[U8], originals: Sequence[tuple[int, int]]) -> ImageBatch:
        """Pictures (h, w, 3), and the sizes (h, w) they had as given, as one batch.

        They are resized already, or with gpu_preprocess perhaps as given.
        """
        make = device_batch if self.gpu_preprocess else pad
        return make(pictures, originals, self.config.image, self.image_size)

    def encode_batch(self, batch: ImageBatch) -> EncodedImages:
        """As `encode_images`, of pictures that are resized and padded already; at one scale, whatever the bundle's."""
        if self.config.swin.fuses_text or self.baked is not None:
            return EncodedImages((), batch.sizes, batch.originals, batch.images)
        return EncodedImages(self.session.vision_backbone(batch.images), batch.sizes, batch.originals)

    def head_inputs(self, encoded: EncodedImages, text: F32, attention_mask: I64) -> tuple[Pyramid, F32]:
        """P3..P7 and the text (B, T, F) as the fusion head reads them; text (B, T, L): what `encode_text` gave."""
        if encoded.images is None:
            return encoded.features, text
        *features, text = self.session.vision_backbone(encoded.images, text, attention_mask)
        return tuple(features), text

    def detect_encoded(
        self,
        encoded: EncodedImages | EncodedScales,
        prompt: str | Sequence[Name] | Prompt | None = None,
        chunk: int | None = None,
    ) -> list[Detections]:
        """As `detect`, on pictures that were encoded before."""
        if self._held is not None and isinstance(encoded, EncodedImages):
            check_unasked(prompt, chunk)
            return self._detect_chunks(encoded, self._held)
        (tokenized,) = self._tokenized(prompt, 1, chunk)
        self._hinter.tell(tokenized.prompt, stacklevel=2)
        if isinstance(encoded, EncodedScales):
            return self._detect_passes(encoded.passes, [tokenized] * len(encoded.originals))
        return self._detect_chunks(encoded, tokenized)

    def chunks(self, prompt: Prompt, chunk: int | None = None) -> tuple[TokenizedChunk, ...]:
        """The prompt as captions that the text encoder holds, chunk names in each; None takes the configuration's.

        Raises PromptError, also where the configuration allows fewer names (the original fails beyond).
        """
        text, most = self.config.text, self.config.detection.most_names
        if 0 < most < len(prompt.names):
            raise PromptError(
                f"the prompt has {len(prompt.names)} names, but the model's configuration has room for {most} "
                f"(TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM)"
            )
        names_a_caption = self.config.detection.chunk if chunk is None else chunk
        return prompt.chunks(text.max_query_len, text.separator, names_a_caption)

    def encode_text(self, chunk: TokenizedChunk) -> F32:
        """Text features (1, T, L) of a caption, from the cache if it was used lately.

        T may be more than its tokens, which `mask_of` tells, in whole units of the session's `shape_unit`.
        """
        if chunk.caption not in self._text:
            count = len(chunk.input_ids)
            tokens = min(self._whole_units(count), max(count, self.config.text.max_query_len))
            input_ids = np.pad(chunk.input_ids, (0, tokens - count))[None]  # 0 is [PAD]
            self._text[chunk.caption] = kept(self.session.text_encoder(input_ids, mask_of(chunk, tokens)))
            while len(self._text) > 1 and sum(text.nbytes for text in self._text.values()) > TEXT_CACHE_BYTES:
                self._text.popitem(last=False)
        self._text.move_to_end(chunk.caption)
        return self._text[chunk.caption]

    def class_map(self, chunk: TokenizedChunk, tokens: int, names: int) -> F32:
        """`prompt.class_map` with room for at least so many names: (T, K).

        Where the session has a `shape_unit`, K is of its multiples, or below it of the powers of two, as each name
        costs time in the selection.
        """
        own = class_map(chunk, self.config.detection.score_agg, tokens)
        if names > 0 and self.config.detection.score_threshold >= 0:  # below 0, columns of zeros would come through
            names = min(self._whole_units(names), 1 << (names - 1).bit_length()) if self._unit > 1 else names
        return np.pad(own, ((0, 0), (0, names - own.shape[1])))

    @property
    def _unit(self) -> int:
        return getattr(self.session, "shape_unit", 1)

    def _whole_units(self, count: int) -> int:
        return up(count, self._unit) * self._unit

    def _load(self, images: Sequence[Picture], before: int = 0) -> tuple[list[U8], list[str]]:
        """The pictures, and what errors call them: their file, or their place where there are several.

        before: how many batches took earlier.
        """
        if not images:
            raise ImageError("no picture was given")
        several = before > 0 or len(images) > 1
        names = [picture_name(image, before + i + 1 if several else None) for i, image in enumerate(images)]
        return [load_image(image, name=name) for image, name in zip(images, names, strict=True)], names

    def _preprocess(self, images: Sequence[Picture], before: int = 0) -> ImageBatch:
        pictures, names = self._load(images, before)
        config, size = self.config.image, self.image_size
        if self._takes_pixels:
            resize_shape(
                pictures[0].shape[0], pictures[0].shape[1], config, names[0]
            )  # which the graph computes without a check
            shapes = np.array([pictures[0].shape[:2]], np.int64)
            return ImageBatch(pictures[0], shapes, shapes)  # type: ignore[arg-type]  # uint8 (H, W, 3)
        originals = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        prepare = for_device if self.gpu_preprocess else resize
        prepared = [prepare(picture, config, size, name) for picture, name in zip(pictures, names, strict=True)]
        return self.batch_of(prepared, originals)

    def _passes(self, images: Sequence[Picture], before: int = 0) -> Iterator[EncodedPass]:
        """The batch at one scale after the other, each through the backbone when it is asked for."""
        pictures, names = self._load(images, before)
        for one in passes_of(self.config):
            yield EncodedPass(one, self.encode_batch(batch_of(one, pictures, names)))

    def _prefetch(self, images: Sequence[Picture], before: int) -> ImageBatch | None:
        """The next batch, prepared and on its way to the GPU that computes this one; None where nothing is gained."""
        prefetch = getattr(self.session, "prefetch", None)
        if prefetch is None:
            return None
        batch = self._preprocess(images, before)
        prefetch(batch.images)
        return batch

    def _detect_each(self, encoded: EncodedImages, prompts: Sequence[Tokenized]) -> list[Detections]:
        """A batch with the prompt of each picture; those that share one are run together."""
        results: dict[int, Detections] = {}
        for indices in sharing(prompts):
            own = encoded if len(indices) == len(prompts) else selected(encoded, indices)
            results |= zip(indices, self._detect_chunks(own, prompts[indices[0]]), strict=True)
        return [results[index] for index in range(len(prompts))]

    def _detect_chunks(self, encoded: EncodedImages, prompt: Tokenized) -> list[Detections]:
        parts: list[list[Detections]] = [[] for _ in encoded.sizes]
        for chunk in prompt.chunks:
            found, names = self._find(encoded, chunk), prompt.names(chunk)
            for image, part in enumerate(parts):
                part.append(picture_detections(found, image, encoded.sizes[image], encoded.originals[image], names))
        return [concatenate(part) for part in parts]

    def _detect_passes(self, passes: Iterable[EncodedPass], prompts: Sequence[Tokenized]) -> list[Detections]:
        return detect_passes(passes, prompts, self._find, self.config.multiscale)

    @property
    def _takes_pixels(self) -> bool:
        return self.baked is not None and self.baked.takes_pixels

    def _tokenized(
        self, prompt: str | Sequence[Name] | Prompt | Sequence[Prompt] | None, pictures: int, chunk: int | None
    ) -> list[Tokenized]:
        """The prompt of each picture; a baked model's own."""
        if self._held is not None:
            check_unasked(prompt, chunk)
            return [self._held] * pictures
        if prompt is None:
            raise PromptError('a bundle needs a prompt, such as "cat. remote control"; only a baked model has its own')
        return of_each(prompt, pictures, lambda one: Tokenized(one, self.chunks(one, chunk)))

    def _find(self, encoded: EncodedImages, chunk: TokenizedChunk) -> tuple[F32, F32, I64, I64]:
        """What the fusion head gives of a batch for one caption."""
        if self.baked is not None:
            return run_baked(self.session, self.baked, encoded)
        batch, text = len(encoded.sizes), self.encode_text(chunk)
        tokens = text.shape[1]
        mask = np.repeat(mask_of(chunk, tokens), batch, axis=0)
        features, text = self.head_inputs(encoded, np.repeat(text, batch, axis=0), mask)
        classes = np.repeat(self.class_map(chunk, tokens, len(chunk.class_tokens))[None], batch, axis=0)
        return self.session.fusion_head(features, text, mask, classes, encoded.sizes)


def mask_of(chunk: TokenizedChunk, tokens: int) -> I64:
    """A caption's attention mask (1, T) for T tokens: 1 where it has one of its own."""
    return (np.arange(tokens) < len(chunk.input_ids)).astype(np.int64)[None]


def picture_detections(
    found: tuple[F32, F32, I64, I64], row: int, resized: I64, original: I64, names: tuple[str, ...]
) -> Detections:
    """One row of what the fusion head gave (boxes, scores, labels, count), in the pixels of the picture as given."""
    boxes, scores, labels, count = found
    n = int(count[row])
    return Detections(
        boxes=restore_boxes(boxes[row, :n], pair(resized), pair(original)),
        scores=scores[row, :n],
        labels=labels[row, :n],
        classes=names,
        image_size=pair(original),
    )
