// Turns a heatmap into pixels, by the same computation as app/drawing/overlay.py, so that a saved PNG looks the same.

import { COLORMAPS } from "./colormaps.js";

const STEPS_OF_LEVEL = 33; // entries of the colour table for each of the 255 levels of a colour map
const LAST = 255 * STEPS_OF_LEVEL;
const FADE = 0.05; // colours fade in over this first part of the scale

/** Interpolate a grid bilinearly to width × height. The values are indices of the colour table, from 0 to `high`. */
export function stepsOf({ values, shape: [rows, columns] }, high, width, height) {
  const steps = new Uint16Array(width * height);
  const across = places(columns, width);
  const down = places(rows, height);
  const scale = LAST / high;
  const lines = Array.from({ length: rows }, (_, row) => {
    const line = new Float32Array(width);
    for (let x = 0; x < width; x++) {
      const { cell, next, part } = across[x];
      const from = values[row * columns + cell];
      line[x] = (from + (values[row * columns + next] - from) * part) * scale + 0.5;
    }
    return line;
  });
  for (let y = 0; y < height; y++) {
    const { cell, next, part } = down[y];
    const above = lines[cell];
    const below = lines[next];
    for (let x = 0, at = y * width; x < width; x++, at++) {
      const step = above[x] + (below[x] - above[x]) * part;
      steps[at] = step < 0 ? 0 : step > LAST ? LAST : step;
    }
  }
  return steps;
}

function places(cells, pixels) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const place = Math.min(Math.max(((pixel + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    const cell = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    return { cell, next: Math.min(cell + 1, cells - 1), part: place - cell };
  });
}

/** The colour table: RGBA of each step, packed in one number. Style is {colormap, opacity, threshold}. */
function paletteOf({ colormap, opacity, threshold }) {
  const colours = COLORMAPS[colormap];
  const palette = new Uint32Array(LAST + 1);
  for (let step = 0; step <= LAST; step++) {
    const evidence = step / LAST;
    const level = Math.round(255 * evidence);
    const alpha = evidence < threshold ? 0 : Math.min(evidence / FADE, 1) * opacity * (level / 255);
    const [red, green, blue] = colours.subarray(3 * level, 3 * level + 3);
    palette[step] = ((Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  return palette;
}

/** Colour pixels (RGBA in one number each) by their steps, and draw the contour of the style. The line has the
 * thickness for a picture whose longest side is `longest`. */
export function colour(pixels, steps, width, height, style, longest) {
  const palette = paletteOf(style);
  for (let at = 0; at < pixels.length; at++) pixels[at] = palette[steps[at]];
  if (style.contour > 0) drawContour(pixels, steps, width, height, style.contour * LAST, longest);
}

/** Draw a white line with black edges along the inner border of the area that reaches the step `from`. */
function drawContour(pixels, steps, width, height, from, longest) {
  const border = [];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (steps[at] < from) continue;
      const outside = (x > 0 && steps[at - 1] < from) || (x < width - 1 && steps[at + 1] < from) ||
        (y > 0 && steps[at - width] < from) || (y < height - 1 && steps[at + width] < from);
      if (outside) border.push(at);
    }
  }
  const line = 1 + Math.floor(longest / 500);
  for (const [colourOfLine, thickness] of [[0xff000000, line + 2], [0xffffffff, line]]) {
    const reach = thickness >> 1;
    for (const at of border) {
      const x = at % width;
      const y = (at - x) / width;
      for (let row = Math.max(y - reach, 0); row <= Math.min(y + reach, height - 1); row++) {
        pixels.fill(colourOfLine, row * width + Math.max(x - reach, 0), row * width + Math.min(x + reach, width - 1) + 1);
      }
    }
  }
}

/** The largest cell of a grid: {row, column, value}. */
export function peakOf({ values, shape: [, columns] }) {
  const at = values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
  return { row: Math.floor(at / columns), column: at % columns, value: values[at] };
}
