// The server's HTTP interface: one picture and a prompt in, an answer or a ServerError out.
"use strict";

/** An answer that is none: `code` and `message` are the server's, `retryAfter` (seconds) comes with "busy". */
class ServerError extends Error {
  constructor(code, message, retryAfter) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Asks the server that gave this page; paths are relative, so that it may stand below a path of another server's. */
class DetectClient {
  constructor() {
    this.token = ""; // in memory only
  }

  /** What answers: name, backend, limits. */
  model() {
    return this.request("v1/model", {});
  }

  /**
   * Every detection of a question, {prompt} or {sentence}, in a picture {file, name, id}, whatever its score.
   *
   * The bytes go out once; after that the picture's id names them, so that only the text and the fusion head run
   * again. A server that has forgotten the picture gets the bytes again.
   */
  async detect(picture, question, signal) {
    if (picture.id !== null) {
      try {
        return await this.request("v1/detect", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ images: [{ id: picture.id }], ...question, threshold: 0 }),
          signal,
        });
      } catch (error) {
        if (error.code !== "unknown_image") throw error;
        picture.id = null;
      }
    }
    const form = new FormData();
    form.append("image", picture.file, picture.name);
    for (const [field, text] of Object.entries(question)) form.append(field, text);
    form.append("threshold", "0");
    const answer = await this.request("v1/detect", { method: "POST", body: form, signal });
    picture.id = answer.results[0].image.id;
    return answer;
  }

  async request(path, options) {
    const headers = { ...options.headers };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("unreachable", "The server cannot be reached: is it still running?");
    }
    const body = await response.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return null;
    });
    if (response.ok && body !== null) return body;
    const code = body?.error?.code ?? (response.status === 401 ? "unauthorized" : "internal");
    const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
    const seconds = Number.parseFloat(response.headers.get("Retry-After"));
    throw new ServerError(code, message, Number.isFinite(seconds) ? seconds : 1);
  }
}
