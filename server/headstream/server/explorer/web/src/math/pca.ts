// Principal components of a few points in many dimensions, from the matrix of their products.

import { dot, mean, type Vector } from "./vectors";

export type Point = [number, number];

export interface Projection {
  points: Point[];
  /** Share of the variance along each of the two axes. */
  shares: [number, number];
}

const ROUNDS = 500;

/** The points along their two principal axes. Signs: the point farthest out lies on the right, or above. */
export function project(rows: Vector[]): Projection {
  const center = mean(rows);
  const centered = rows.map((row) => Float64Array.from(row, (value, i) => value - center[i]!));
  // The products G = X X^T have the eigenvalues of the covariance, times n, and X v = sqrt(l) u.
  const products = centered.map((a) => Float64Array.from(centered, (b) => dot(a, b)));
  const total = products.reduce((sum, row, i) => sum + row[i]!, 0);
  const [first, second] = [takeAxis(products), takeAxis(products)];
  const points = rows.map((_, i): Point => [first.along[i]!, second.along[i]!]);
  const share = (value: number) => (total > 0 ? value / total : 0);
  return { points, shares: [share(first.value), share(second.value)] };
}

/** The largest eigenvalue and the points along its axis; both are taken out of the products. */
function takeAxis(products: Float64Array[]): { value: number; along: Float64Array } {
  const n = products.length;
  // Any start that is not orthogonal to the axis will do; the same one gives the same picture.
  let axis = Float64Array.from({ length: n }, (_, i) => Math.cos(i * 1.7) + 0.01);
  let value = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const next = Float64Array.from(products, (row) => dot(row, axis));
    value = Math.sqrt(dot(next, next));
    if (value < 1e-12) return { value: 0, along: new Float64Array(n) };
    axis = next.map((entry) => entry / value);
  }
  const farthest = axis.reduce((best, entry) => (Math.abs(entry) > Math.abs(best) ? entry : best), 0);
  const sign = farthest < 0 ? -1 : 1;
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) products[i]![j]! -= value * axis[i]! * axis[j]!;
  return { value, along: axis.map((entry) => sign * Math.sqrt(value) * entry) };
}
