// Reads NumPy files of version 1.0, with little-endian float32 in C order, as the service writes them.

/** Parse a file to {values, shape}. Throws Error if it holds another type or order. */
export function parseNpy(buffer) {
  const headerBytes = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, headerBytes));
  const shape = header.match(/'shape': \(([\d, ]*)\)/)[1].split(",").filter((size) => size.trim()).map(Number);
  if (!header.includes("'<f4'") || !header.includes("'fortran_order': False")) throw new Error(`not float32: ${header}`);
  return { values: new Float32Array(buffer, 10 + headerBytes), shape };
}
