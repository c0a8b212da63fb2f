// One picture with one heatmap over the part that the model saw.

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
  #drawn = null; // {grid, high, steps}: interpolating takes longest, and moving a slider needs none of it

  /** Fills an element of the page. */
  constructor(element) {
    this.#frame.className = "pane";
    this.#seen.className = "seen";
    this.#seen.hidden = true;
    this.#seen.append(this.#canvas);
    this.#picture.alt = "";
    this.#frame.append(this.#picture, this.#seen);
    element.append(this.#frame);
  }

  /** The element over the part that the model saw, for what else is to lie there. */
  get seen() {
    return this.#seen;
  }

  /** Show the picture at an address, unless another one is wanted meanwhile, or the browser cannot show it. */
  async show(address) {
    const next = new Image();
    this.#wanted = next;
    next.src = address;
    next.draggable = false;
    try {
      await next.decode();
    } catch (error) {
      if (error.name !== "EncodingError") throw error; // such as TIFF: the service's preview comes with the answer
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

  /** Show nothing. */
  blank() {
    this.#wanted = null;
    this.#alternative = "";
    this.#put(new Image());
    this.clear();
    this.look(null);
  }

  /** Describe what is shown, to those who do not see it. */
  describe(alternative) {
    this.#alternative = alternative;
    this.#picture.alt = alternative;
  }

  /** Say where in the picture the model looked, as the service does in `picture`, and the longest side, in px, in which
   * the service draws it; with null, not yet. */
  look(picture, longest = 0) {
    if (picture === this.#looked) return; // or what is drawn would be gone
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
    // As large as the service draws it, so that both look the same.
    const shrunk = Math.min(1, longest / Math.max(width, height));
    this.#longest = shrunk * Math.max(width, height);
    this.#canvas.width = Math.max(1, Math.round(seen.width_px * shrunk));
    this.#canvas.height = Math.max(1, Math.round(seen.height_px * shrunk));
    this.#drawn = null;
  }

  /** Draw a grid on a scale from 0 to `high`; nothing where `high` is 0. */
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

  /** Leave the picture bare. */
  clear() {
    this.#drawn = null;
    this.#canvas.getContext("2d").clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  /** Let the map cover this part of the width, from the left. */
  reveal(part) {
    this.#canvas.style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
  }

  /** Show the picture this many times as large, with the same place in the middle of the element that it fills. */
  zoom(times) {
    const stage = this.#frame.parentElement;
    const across = (stage.scrollLeft + stage.clientWidth / 2 - this.#frame.offsetLeft) / this.#frame.offsetWidth;
    const down = (stage.scrollTop + stage.clientHeight / 2 - this.#frame.offsetTop) / this.#frame.offsetHeight;
    this.#frame.style.setProperty("--times", times);
    stage.classList.toggle("zoomed", times > 1);
    if (times > 1) stage.tabIndex = 0; // to be scrolled by keyboard
    else stage.removeAttribute("tabindex");
    stage.scrollLeft = this.#frame.offsetLeft + across * this.#frame.offsetWidth - stage.clientWidth / 2;
    stage.scrollTop = this.#frame.offsetTop + down * this.#frame.offsetHeight - stage.clientHeight / 2;
  }
}
