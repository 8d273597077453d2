// How pictures come in: chosen, dropped, pasted, or from the camera.
"use strict";

const NAMELESS_PROMPT_PAUSE = 300; // ms between looks at an empty prompt while the camera runs

const camera = new Camera(at.video);

at.file.addEventListener("change", () => {
  const [file] = at.file.files;
  at.file.value = ""; // so that the same file may be chosen again
  if (file) take([file]);
});

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (files.length === 0) return; // text, for the prompt
  event.preventDefault();
  take(files);
});

document.addEventListener("dragover", (event) => {
  event.preventDefault(); // else the browser would leave the page and open the file
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files);
  else showError("That is no file; save the picture first, then drop it here.");
});

function take(files) {
  stopCamera();
  showPicture(files[0], files.length > 1 ? `The first of ${files.length} files is shown.` : "");
}

at.camera.addEventListener("click", async () => {
  if (camera.running) {
    stopCamera();
    ask(); // the prompt may have changed since the frame that stays
    return;
  }
  showError("");
  try {
    await camera.start();
  } catch (error) {
    camera.stop();
    showError(error.message);
    return;
  }
  at.camera.textContent = "Stop the camera";
  at.camera.setAttribute("aria-pressed", "true");
  at.live.hidden = false;
  at.invitation.hidden = true;
  at.canvas.hidden = true;
  at.panel.hidden = true;
  say("");
  at.work.classList.remove("empty");
});

at.capture.addEventListener("click", async () => {
  try {
    take([await camera.frame()]);
  } catch (error) {
    showError(error.message);
  }
});

at.continuous.addEventListener("click", () => {
  const start = !isContinuous();
  setContinuous(start);
  if (start) follow();
});

function isContinuous() {
  return at.continuous.getAttribute("aria-pressed") === "true";
}

function setContinuous(on) {
  at.continuous.setAttribute("aria-pressed", `${on}`);
  at.live.classList.toggle("inset", on && picture !== null);
}

/** Frame after frame, each when the one before is answered, so that boxes are always those of the frame shown. */
async function follow() {
  while (camera.running && isContinuous()) {
    const asked = question();
    if (!asked) {
      say(whatIsMissing());
      await pause(NAMELESS_PROMPT_PAUSE);
      continue;
    }
    try {
      const file = await camera.frame();
      const frame = { file, name: file.name, id: null, url: URL.createObjectURL(file) };
      const body = await client.detect(frame, asked);
      if (!camera.running || !isContinuous()) {
        URL.revokeObjectURL(frame.url);
        return;
      }
      await showFrame(frame, asked, body);
    } catch (error) {
      if (error.code === "busy") {
        await pause(error.retryAfter * 1000);
        continue;
      }
      setContinuous(false);
      showFailure(error);
    }
  }
}

async function showFrame(frame, asked, body) {
  const next = new Image();
  next.src = frame.url;
  await next.decode(); // picture and boxes are to change together
  setPicture(frame);
  at.live.classList.add("inset");
  showAnswer(asked, body);
}

function stopCamera() {
  if (!camera.running) return;
  camera.stop();
  setContinuous(false);
  at.camera.textContent = "Camera";
  at.camera.setAttribute("aria-pressed", "false");
  at.live.hidden = true;
  at.invitation.hidden = picture !== null;
  at.canvas.hidden = picture === null;
  at.panel.hidden = answer === null;
  at.work.classList.toggle("empty", picture === null);
}

function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
