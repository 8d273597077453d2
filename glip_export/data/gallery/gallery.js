// The gallery: every picture's detections are in the page as JSON; the slider and the names choose what is shown.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const score = document.getElementById("score");
const only = document.getElementById("only");
const legend = new Legend(document.getElementById("legend"));
const NEARBY = "800px"; // boxes are made when a picture comes this near to the screen: there may be thousands

/** One picture with its boxes, its list and the button that makes it large. */
class Card {
  constructor(root, { image, detections }) {
    this.root = root;
    this.detections = detections;
    this.visible = [];
    this.ready = false;
    this.view = new PictureView(root.querySelector(".picture"));
    this.view.setSize(image.width, image.height);
    this.list = new DetectionList(root.querySelector(".list"));
    this.view.onpoint = (index) => this.setActive(index, true);
    this.list.onactive = (index) => this.setActive(index, false);
    this.button = element("button", "button small", "Enlarge");
    this.button.type = "button";
    this.button.addEventListener("click", () => {
      this.setWide(!this.root.classList.contains("wide"));
      this.root.scrollIntoView({ block: "nearest" });
    });
    root.querySelector("figcaption").append(this.button);
    this.setWide(false);
  }

  /** Makes the boxes, once. */
  prepare() {
    if (this.ready) return;
    this.ready = true;
    this.view.setDetections(this.detections);
    this.list.setDetections(this.detections);
    this.update();
  }

  show(threshold) {
    this.visible = visibleDetections(this.detections, threshold, legend.hiddenNames);
    this.shown = this.visible.filter(Boolean).length;
    this.root.querySelector(".boxes-shown").textContent = `${this.shown} of ${this.detections.length}`;
    this.root.hidden = only.checked && this.shown === 0;
    if (this.ready) this.update();
  }

  update() {
    this.view.setVisible(this.visible);
    this.list.setVisible(this.visible);
  }

  setActive(index, reveal) {
    if (!this.ready) return;
    this.view.setActive(index);
    this.list.setActive(index, reveal);
  }

  setWide(wide) {
    this.root.classList.toggle("wide", wide);
    this.list.root.hidden = !wide;
    this.button.textContent = wide ? "Make small" : "Enlarge";
    this.button.setAttribute("aria-expanded", `${wide}`);
  }
}

const figures = [...document.querySelectorAll("figure")];
const cards = figures.map((figure, index) => new Card(figure, data.results[index]));

function filter() {
  const threshold = Number(score.value);
  document.getElementById("score-value").textContent = threshold.toFixed(2);
  for (const card of cards) card.show(threshold);
  legend.setCounts(countByLabel(data.results.flatMap(({ detections }) => detections), threshold));
  const boxes = cards.reduce((sum, { shown }) => sum + shown, 0);
  const pictures = cards.filter(({ shown }) => shown > 0).length;
  document.getElementById("totals").textContent =
    `${boxes} ${boxes === 1 ? "box" : "boxes"} in ${pictures} of ${cards.length} ${cards.length === 1 ? "picture" : "pictures"}`;
}

const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) cards[figures.indexOf(target)].prepare();
  }
}, { rootMargin: NEARBY });
for (const figure of figures) nearby.observe(figure);
addEventListener("beforeprint", () => { for (const card of cards) card.prepare(); });

legend.setClasses(data.classes);
legend.onchange = filter;
score.value = data.threshold;
score.addEventListener("input", filter);
only.addEventListener("change", filter);
filter();
if (cards.length === 1) cards[0].setWide(true);
