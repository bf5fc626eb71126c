// Tensors as they come over the bridge: base64 of little-endian values, row-major.

import type { Tensor } from "./messages";

export function toBytes(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export function toBase64(values: Float32Array): string {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => view.setFloat32(i * 4, value, true));
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** The values of a FLOAT32 tensor, which is what the page asks for. */
export function toFloats(tensor: Tensor): Float32Array {
  if (tensor.dtype !== "DATA_TYPE_FLOAT32") throw new Error(`${tensor.dtype} is not expected here`);
  const bytes = toBytes(tensor.data);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(i * 4, true));
}

/** The rows of a tensor over its last axis. */
export function toRows(tensor: Tensor): Float32Array[] {
  const values = toFloats(tensor);
  const width = Number(tensor.shape.at(-1));
  return Array.from({ length: width ? values.length / width : 0 }, (_, i) =>
    values.subarray(i * width, (i + 1) * width),
  );
}
