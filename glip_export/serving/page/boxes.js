// Colours, and boxes on a picture, for the live page and the gallery.
"use strict";

// The colours of glip_export/results/drawing.py, label by label, so that PNG, gallery and live page agree; a test compares them.
const TONES = [[0.85, 1.0], [0.6, 0.75], [0.35, 1.0], [1.0, 0.6], [0.3, 0.8]];

/** The colour of a label as [red, green, blue], 0 to 255. */
function labelColor(label) {
  const hue = (label * 0.618034) % 1;
  const [saturation, value] = TONES[Math.floor(label / 9) % TONES.length];
  const sector = Math.floor(hue * 6);
  const part = hue * 6 - sector;
  const low = value * (1 - saturation);
  const falling = value * (1 - saturation * part);
  const rising = value * (1 - saturation * (1 - part));
  const channels = [
    [value, rising, low], [falling, value, low], [low, value, rising],
    [low, falling, value], [rising, low, value], [value, low, falling],
  ][sector % 6];
  return channels.map((channel) => Math.round(channel * 255));
}

/** Black or white, whichever reads better on the colour. */
function inkOn(color) {
  const [red, green, blue] = color.map((channel) => (channel / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? [0, 0, 0] : [255, 255, 255];
}

function css(color) {
  return `rgb(${color.join(", ")})`;
}

/** A new element; the text is put in as text, whatever it holds. */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function swatch(label) {
  const made = element("span", "swatch");
  made.style.backgroundColor = css(labelColor(label));
  return made;
}

/** The name as one line; names come as they were typed. */
function nameOf(detection) {
  return detection.name.trim().replace(/\s+/g, " ");
}

const MOST_TAGS = 150; // more texts than that hide the picture, and placing them takes too long

/** The boxes of one picture over its <img>, in an element of class "picture". */
class PictureView {
  constructor(root) {
    this.root = root;
    this.layer = root.querySelector(".boxes");
    this.detections = [];
    this.visible = [];
    this.active = -1;
    this.onpoint = () => {}; // called with the index of the box under the pointer, or -1
    for (const kind of ["pointermove", "pointerdown"]) {
      root.addEventListener(kind, (event) => this.onpoint(this.boxAt(event)));
    }
    root.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.onpoint(-1); // a finger leaves at once; what it tapped stays marked
    });
    new ResizeObserver(() => this.placeTags()).observe(this.layer);
  }

  /** The picture's size in pixels, in which boxes are given. */
  setSize(width, height) {
    this.width = width;
    this.height = height;
    this.root.style.setProperty("--ratio", `${width / height}`);
  }

  setDetections(detections) {
    this.detections = detections;
    this.visible = detections.map(() => false);
    this.active = -1;
    this.root.classList.remove("has-active");
    this.frames = detections.map((detection) => this.frame(detection));
    this.tags = detections.map((detection) => this.tag(detection));
    // The first matters most: it is drawn last.
    this.layer.replaceChildren(...[...this.frames].reverse(), ...[...this.tags].reverse());
  }

  setVisible(visible) {
    this.visible = visible;
    this.frames.forEach((frame, index) => { frame.hidden = !visible[index]; });
    this.placeTags();
  }

  setActive(index) {
    if (index === this.active) return;
    for (const parts of [this.frames, this.tags]) {
      parts[this.active]?.classList.remove("active");
      parts[index]?.classList.add("active");
    }
    this.active = index;
    this.root.classList.toggle("has-active", index >= 0);
    if (index >= 0 && this.tags[index].hidden) this.placeTags();
  }

  frame({ box, label }) {
    const frame = element("div", "box");
    const [x1, y1, x2, y2] = this.inside(box);
    frame.style.left = `${(x1 / this.width) * 100}%`;
    frame.style.top = `${(y1 / this.height) * 100}%`;
    frame.style.width = `${((x2 - x1) / this.width) * 100}%`;
    frame.style.height = `${((y2 - y1) / this.height) * 100}%`;
    frame.style.setProperty("--color", css(labelColor(label)));
    frame.hidden = true;
    return frame;
  }

  tag(detection) {
    const tag = element("div", "tag", `${nameOf(detection)} ${detection.score.toFixed(2)}`);
    const color = labelColor(detection.label);
    tag.style.backgroundColor = css(color);
    tag.style.color = css(inkOn(color));
    tag.hidden = true;
    return tag;
  }

  /** The box, no part of it outside the picture. */
  inside([x1, y1, x2, y2]) {
    const x = (value) => Math.min(Math.max(value, 0), this.width);
    const y = (value) => Math.min(Math.max(value, 0), this.height);
    return [x(Math.min(x1, x2)), y(Math.min(y1, y2)), x(Math.max(x1, x2)), y(Math.max(y1, y2))];
  }

  /** Each text above its box, inside its top or bottom, or below it: where it hides the least of those before it. */
  placeTags() {
    const shown = this.visible.flatMap((visible, index) => (visible ? [index] : [])).slice(0, MOST_TAGS);
    if (this.visible[this.active] && !shown.includes(this.active)) shown.push(this.active);
    const kept = new Set(shown);
    this.tags?.forEach((tag, index) => { tag.hidden = !kept.has(index); });
    const [width, height] = [this.layer.clientWidth, this.layer.clientHeight];
    if (!width || !height) return;
    const sizes = shown.map((index) => [this.tags[index].offsetWidth, this.tags[index].offsetHeight]);
    const taken = [];
    shown.forEach((index, order) => {
      const [tagWidth, tagHeight] = sizes[order];
      const [x1, y1, , y2] = this.inside(this.detections[index].box);
      const [top, bottom] = [(y1 / this.height) * height, (y2 / this.height) * height];
      const left = Math.max(0, Math.min((x1 / this.width) * width, width - tagWidth));
      const places = [top - tagHeight, top, bottom - tagHeight, bottom].map((y) => {
        const at = Math.max(0, Math.min(y, height - tagHeight));
        return [left, at, left + tagWidth, at + tagHeight];
      });
      const costs = places.map((place) => taken.reduce((sum, other) => sum + overlap(place, other), 0));
      const best = places[costs.indexOf(Math.min(...costs))];
      taken.push(best);
      this.tags[index].style.left = `${best[0]}px`;
      this.tags[index].style.top = `${best[1]}px`;
    });
  }

  /** The smallest visible box under the pointer, or -1. */
  boxAt(event) {
    const area = this.layer.getBoundingClientRect();
    const x = ((event.clientX - area.left) / area.width) * this.width;
    const y = ((event.clientY - area.top) / area.height) * this.height;
    let [found, smallest] = [-1, Infinity];
    this.detections.forEach(({ box }, index) => {
      const [x1, y1, x2, y2] = this.inside(box);
      const size = (x2 - x1) * (y2 - y1);
      if (this.visible[index] && x >= x1 && x <= x2 && y >= y1 && y <= y2 && size < smallest) {
        [found, smallest] = [index, size];
      }
    });
    return found;
  }
}

function overlap(one, two) {
  const wide = Math.min(one[2], two[2]) - Math.max(one[0], two[0]);
  const high = Math.min(one[3], two[3]) - Math.max(one[1], two[1]);
  return Math.max(wide, 0) * Math.max(high, 0);
}
