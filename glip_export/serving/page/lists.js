// The legend of names and the list of detections, beside the pictures of the live page and the gallery.
"use strict";

/** For each detection, whether it scores `threshold` or more and its name is not hidden. */
function visibleDetections(detections, threshold, hiddenNames) {
  return detections.map(({ score, name }) => score >= threshold && !hiddenNames.has(name));
}

/** The visible detections as a list of buttons, one stop for the Tab key; the arrow keys go through it. */
class DetectionList {
  constructor(root) {
    this.root = root;
    this.onactive = () => {}; // called with the index of the row under the pointer or focus, or -1
    root.addEventListener("keydown", (event) => this.move(event));
    root.addEventListener("pointerleave", () => this.onactive(this.focused()));
    root.addEventListener("focusout", () => this.onactive(-1));
  }

  setDetections(detections) {
    this.items = detections.map((detection, index) => this.item(detection, index));
    this.root.replaceChildren(...this.items);
  }

  setVisible(visible) {
    this.items.forEach((item, index) => { item.hidden = !visible[index]; });
    this.setTabStop(this.rows().find((row) => row.tabIndex === 0) ?? this.rows()[0]);
  }

  setActive(index, reveal) {
    this.root.querySelector(".active")?.classList.remove("active");
    const item = this.items[index];
    item?.classList.add("active");
    // Only the list's own scrolling: the page stays where it is.
    if (item && reveal) {
      const [top, bottom] = [item.offsetTop, item.offsetTop + item.offsetHeight];
      const { scrollTop, clientHeight } = this.root;
      if (top < scrollTop) this.root.scrollTop = top;
      else if (bottom > scrollTop + clientHeight) this.root.scrollTop = bottom - clientHeight;
    }
  }

  item(detection, index) {
    const name = nameOf(detection);
    const sides = detection.box.map((side) => Math.round(side));
    const row = element("button", "row");
    row.type = "button";
    row.tabIndex = -1;
    row.setAttribute("aria-label", `${name}, score ${detection.score.toFixed(2)}, box ${sides.join(", ")}`);
    const label = element("span", "row-name", name);
    label.dir = "auto";
    row.append(swatch(detection.label), label, element("span", "row-box", sides.join(" ")));
    row.append(element("span", "row-score", detection.score.toFixed(2)));
    row.addEventListener("pointerenter", () => this.onactive(index));
    row.addEventListener("focus", () => { this.setTabStop(row); this.onactive(index); });
    row.addEventListener("click", () => row.focus()); // Safari does not focus a button that is pressed
    const item = element("li");
    item.append(row);
    item.hidden = true;
    return item;
  }

  rows() {
    return this.items.filter((item) => !item.hidden).map((item) => item.firstChild);
  }

  focused() {
    return this.items.findIndex((item) => item.firstChild === document.activeElement);
  }

  setTabStop(stop) {
    this.items.forEach((item) => { item.firstChild.tabIndex = item.firstChild === stop ? 0 : -1; });
  }

  move(event) {
    const rows = this.rows();
    const at = rows.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    rows[to]?.focus();
  }
}

/** The prompt's names with their colours and counts; a press hides or shows a name's boxes. */
class Legend {
  constructor(root) {
    this.root = root;
    this.hiddenNames = new Set();
    this.onchange = () => {};
  }

  setClasses(classes) {
    this.entries = classes.map((name, label) => this.entry(name, label));
    this.root.replaceChildren(...this.entries.map(({ item }) => item));
  }

  /** How many boxes each label has (a Map) at the score that is asked for, hidden or not. */
  setCounts(counts) {
    this.entries.forEach((entry, label) => {
      const { button, count, name } = entry;
      const number = counts.get(label) ?? 0;
      const shown = !this.hiddenNames.has(name);
      if (entry.number === number && entry.shown === shown) return; // there may be a thousand names
      Object.assign(entry, { number, shown });
      count.textContent = `${number}`;
      button.classList.toggle("none", number === 0);
      button.setAttribute("aria-pressed", `${shown}`);
      button.setAttribute("aria-label", `${name.trim()}: ${number} ${number === 1 ? "box" : "boxes"}`);
    });
  }

  entry(name, label) {
    const button = element("button", "name");
    button.type = "button";
    button.title = "Show or hide these boxes";
    const text = element("span", "name-text", name.trim());
    text.dir = "auto";
    const count = element("span", "count", "0");
    button.append(swatch(label), text, count);
    button.addEventListener("click", () => {
      if (!this.hiddenNames.delete(name)) this.hiddenNames.add(name);
      this.onchange();
    });
    const item = element("li");
    item.append(button);
    return { item, button, count, name };
  }
}

/** How many detections each label has that score `threshold` or more: a Map. */
function countByLabel(detections, threshold) {
  const counts = new Map();
  for (const { label, score } of detections) {
    if (score >= threshold) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  return counts;
}
