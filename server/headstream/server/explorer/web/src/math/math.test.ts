import { describe, expect, it } from "vitest";
import { project } from "./pca";
import { cosineDistance, difference, mean } from "./vectors";

/** Points (x, y) turned and moved into five dimensions. */
function embed(points: [number, number][]): Float32Array[] {
  const [u, v] = [
    [0.5, 0.5, 0.5, 0.5, 0],
    [0.5, -0.5, 0.5, -0.5, 0],
  ];
  return points.map(([x, y]) => Float32Array.from(u!, (_, i) => 3 + x * u![i]! + y * v![i]!));
}

describe("project", () => {
  it("finds a plane again, wide axis first", () => {
    const points: [number, number][] = [
      [9, 1],
      [-4, -1],
      [-4, 2],
      [-1, -2],
    ]; // centered, x and y uncorrelated up to the rotation that PCA is free to make
    const { points: found, shares } = project(embed(points));
    expect(shares[0] + shares[1]).toBeCloseTo(1, 6);
    expect(shares[0]).toBeGreaterThan(shares[1]);
    for (let i = 0; i < 4; i++)
      for (let j = 0; j < 4; j++) {
        const wanted = Math.hypot(points[i]![0] - points[j]![0], points[i]![1] - points[j]![1]);
        const got = Math.hypot(found[i]![0] - found[j]![0], found[i]![1] - found[j]![1]);
        expect(got).toBeCloseTo(wanted, 4);
      }
  });

  it("gives the variances of axes that are given", () => {
    const { shares } = project(embed([[3, 0], [-3, 0], [0, 1], [0, -1]]));
    expect(shares[0]).toBeCloseTo(0.9, 6);
    expect(shares[1]).toBeCloseTo(0.1, 6);
  });

  it("stands still where all points are one", () => {
    const { points, shares } = project(embed([[1, 1], [1, 1]]));
    expect(points.flat().every((value) => Math.abs(value) < 1e-6)).toBe(true);
    expect(shares).toEqual([0, 0]);
  });
});

describe("vectors", () => {
  it("measures angles, not lengths", () => {
    expect(cosineDistance(Float32Array.of(1, 0), Float32Array.of(5, 0))).toBe(0);
    expect(cosineDistance(Float32Array.of(1, 0), Float32Array.of(0, 2))).toBe(1);
    expect(cosineDistance(Float32Array.of(1, 0), Float32Array.of(-3, 0))).toBe(2);
  });

  it("takes means and differences", () => {
    const rows = [Float32Array.of(1, 2), Float32Array.of(3, 6)];
    expect([...mean(rows)]).toEqual([2, 4]);
    expect([...difference(rows[1]!, rows[0]!)]).toEqual([2, 4]);
  });
});
