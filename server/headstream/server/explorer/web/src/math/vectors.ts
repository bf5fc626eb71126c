// Plain vector arithmetic over rows of one width.

export type Vector = Float32Array | Float64Array;

export function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

export const norm = (a: Vector): number => Math.sqrt(dot(a, a));

/** 1 - cos; 0 for equal directions, 2 for opposite ones. */
export function cosineDistance(a: Vector, b: Vector): number {
  const scale = norm(a) * norm(b);
  return scale === 0 ? 0 : Math.max(0, 1 - dot(a, b) / scale);
}

export function mean(rows: Vector[]): Float64Array {
  const sum = new Float64Array(rows[0]?.length ?? 0);
  for (const row of rows) for (let i = 0; i < sum.length; i++) sum[i]! += row[i]! / rows.length;
  return sum;
}

export function difference(a: Vector, b: Vector): Float32Array {
  return Float32Array.from(a, (value, i) => value - b[i]!);
}

/** The row at length 1; a row of zeros stays one. */
export function toUnit(row: Vector): Float64Array {
  const length = norm(row) || 1;
  return Float64Array.from(row, (value) => value / length);
}
