import { expect, it } from "vitest";
import { placeLabels } from "./labels";

const WIDTH = 500;
const mark = (text: string, x: number, y: number, chosen = false) => ({
  text,
  at: [x, y] as [number, number],
  chosen,
});

it("writes to the right of a mark, and to the left at the edge or of another mark", () => {
  const [middle, edge] = placeLabels([mark("road", 100, 100), mark("chicken", 495, 50)], WIDTH);
  expect(middle!.anchor).toBe("start");
  expect(edge!.anchor).toBe("end");
  const [crowded] = placeLabels([mark("road", 100, 100), mark("wide", 115, 100)], WIDTH);
  expect(crowded!.anchor).toBe("end");
});

it("writes no name over another, but always that of the chosen mark", () => {
  const crowd = Array.from({ length: 12 }, () => mark("road", 100, 100));
  const labels = placeLabels([...crowd, mark("it", 100, 100, true)], WIDTH);
  const written = labels.filter((label) => label !== null);
  expect(written.length).toBeLessThan(crowd.length);
  expect(new Set(written.map(({ x, y, anchor }) => `${x} ${y} ${anchor}`)).size).toBe(written.length);
  expect(labels.at(-1)).toEqual(placeLabels([mark("it", 100, 100)], WIDTH)[0]);
});
