// NumPy's file format, version 1.0, as far as the service writes it: little-endian float32 in C order.

/** {values, shape} of a file. Throws Error if it is something else. */
export function parseNpy(buffer) {
  const headerBytes = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, headerBytes));
  const shape = header.match(/'shape': \(([\d, ]*)\)/)[1].split(",").filter((size) => size.trim()).map(Number);
  if (!header.includes("'<f4'") || !header.includes("'fortran_order': False")) throw new Error(`not float32: ${header}`);
  return { values: new Float32Array(buffer, 10 + headerBytes), shape };
}
