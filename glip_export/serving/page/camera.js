// The camera: started on request, one frame at a time as a JPEG.
"use strict";

class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  /** Shows what the camera sees; throws an Error whose message is for a person. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers give the camera only to pages from https or localhost; open this one there.");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } },
        audio: false,
      });
    } catch (error) {
      throw new Error({
        NotAllowedError: "The camera was refused; allow it for this page in the browser's settings.",
        NotFoundError: "No camera was found on this device.",
        NotReadableError: "The camera is in use by another program.",
      }[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
  }

  /** What the camera sees now, as a JPEG file. */
  frame() {
    const canvas = document.createElement("canvas");
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    return new Promise((resolve, reject) => {
      canvas.toBlob((blob) => {
        if (blob) resolve(new File([blob], "camera.jpg", { type: "image/jpeg" }));
        else reject(new Error("The camera gave no picture; try again."));
      }, "image/jpeg", 0.92);
    });
  }
}
