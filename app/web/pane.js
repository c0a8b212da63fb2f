// A picture with a heatmap over the region that the model saw.

import { colour, stepsOf } from "./heatmap.js";

export class Pane {
  #picture = new Image();
  #alternative = "";
  #looked = null;
  #longest = 0;
  #wanted = null;
  #seen = document.createElement("div");
  #canvas = document.createElement("canvas");
  #frame = document.createElement("div");
  #drawn = null; // {grid, high, image, steps}: cached, because sliders need no new interpolation

  /** Appends the pane to an element of the page. */
  constructor(element) {
    this.#frame.className = "pane";
    this.#seen.className = "seen";
    this.#seen.hidden = true;
    this.#seen.append(this.#canvas);
    this.#picture.alt = "";
    this.#frame.append(this.#picture, this.#seen);
    element.append(this.#frame);
  }

  /** The element over the region that the model saw, to which other layers can be added. */
  get seen() {
    return this.#seen;
  }

  /** Show the picture at an address, unless a newer call supersedes this one or the browser cannot decode it. */
  async show(address) {
    const next = new Image();
    this.#wanted = next;
    next.src = address;
    next.draggable = false;
    try {
      await next.decode();
    } catch (error) {
      if (error.name !== "EncodingError") throw error; // a format such as TIFF: the service's preview will replace it
      return;
    }
    if (this.#wanted !== next) return;
    this.#frame.style.setProperty("--aspect", next.naturalWidth / next.naturalHeight);
    this.#put(next);
  }

  #put(picture) {
    picture.alt = this.#alternative;
    this.#picture.replaceWith(picture);
    this.#picture = picture;
  }

  /** Remove the picture and the heatmap. */
  blank() {
    this.#wanted = null;
    this.#alternative = "";
    this.#put(new Image());
    this.clear();
    this.look(null);
  }

  /** Set the alternative text of the picture. */
  describe(alternative) {
    this.#alternative = alternative;
    this.#picture.alt = alternative;
  }

  /** Set the region that the model saw. `picture` is that of the service's answer, or null before there is one, and
   * `longest` the longest side of the service's drawings in px. */
  look(picture, longest = 0) {
    if (picture === this.#looked) return; // setting the canvas size again would erase the drawing
    this.#looked = picture;
    this.#seen.hidden = picture === null;
    if (picture === null) return;
    const { width_px: width, height_px: height, seen } = picture;
    const share = (length, whole) => `${(100 * length) / whole}%`;
    Object.assign(this.#seen.style, {
      left: share(seen.left_px, width),
      top: share(seen.top_px, height),
      width: share(seen.width_px, width),
      height: share(seen.height_px, height),
    });
    // The canvas has the size of the service's drawing, so that both look the same.
    const shrunk = Math.min(1, longest / Math.max(width, height));
    this.#longest = shrunk * Math.max(width, height);
    this.#canvas.width = Math.max(1, Math.round(seen.width_px * shrunk));
    this.#canvas.height = Math.max(1, Math.round(seen.height_px * shrunk));
    this.#drawn = null;
  }

  /** Draw a grid on a scale from 0 to `high`, or nothing if `high` is 0. */
  paint(grid, high, style) {
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    if (!(high > 0)) {
      this.clear();
      return;
    }
    if (this.#drawn?.grid !== grid || this.#drawn.high !== high) {
      const image = this.#drawn?.image ?? new ImageData(width, height);
      this.#drawn = { grid, high, image, steps: stepsOf(grid, high, width, height) };
    }
    const { image, steps } = this.#drawn;
    colour(new Uint32Array(image.data.buffer), steps, width, height, style, this.#longest);
    context.putImageData(image, 0, 0);
  }

  /** Remove the heatmap. */
  clear() {
    this.#drawn = null;
    this.#canvas.getContext("2d").clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  /** Show only this fraction of the heatmap's width, from the left. */
  reveal(part) {
    this.#canvas.style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
  }

  /** Enlarge the picture this many times, and keep the same point in the middle. */
  zoom(times) {
    const stage = this.#frame.parentElement;
    const across = (stage.scrollLeft + stage.clientWidth / 2 - this.#frame.offsetLeft) / this.#frame.offsetWidth;
    const down = (stage.scrollTop + stage.clientHeight / 2 - this.#frame.offsetTop) / this.#frame.offsetHeight;
    this.#frame.style.setProperty("--times", times);
    stage.classList.toggle("zoomed", times > 1);
    if (times > 1) stage.tabIndex = 0; // makes the element scrollable by keyboard
    else stage.removeAttribute("tabindex");
    stage.scrollLeft = this.#frame.offsetLeft + across * this.#frame.offsetWidth - stage.clientWidth / 2;
    stage.scrollTop = this.#frame.offsetTop + down * this.#frame.offsetHeight - stage.clientHeight / 2;
  }
}
