// What is typed: names, or a sentence and its phrases. `at` is page.js's.
"use strict";

const KINDS = {
  prompt: ["Names with a full stop between; boxes follow as you type.", "cat. remote control"],
  sentence: ["Phrases in [brackets], or none for all its noun phrases.", "[a cat] beside [a red remote control]"],
};

function kind() {
  return at["as-sentence"].checked ? "sentence" : "prompt";
}

/** What is typed, {prompt} or {sentence}; null while there is nothing to ask, or a bracket is still open. */
function question() {
  const text = at.prompt.value.trim();
  return text === "" || isOpen(text) ? null : { [kind()]: text };
}

function whatIsMissing() {
  return at.prompt.value.trim() === "" ? "Type what to look for." : "Type the phrase and its closing ].";
}

/** Whether a sentence's last bracket is an opening one. */
function isOpen(text) {
  return kind() === "sentence" && (text.match(/\\?[[\]]/g) ?? []).findLast((sign) => sign.length === 1) === "[";
}

function showKind() {
  const [help, placeholder] = KINDS[kind()];
  at["prompt-help"].textContent = help;
  at.prompt.placeholder = placeholder;
  for (const chip of document.querySelectorAll(".chip")) chip.hidden = !(kind() in chip.dataset);
}
