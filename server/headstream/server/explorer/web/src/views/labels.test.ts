import { expect, it } from "vitest";
import { placeLabels } from "./labels";

it("writes to the right of a mark, to the left at the edge, and never over another name or a mark", () => {
  const [middle, edge] = placeLabels(
    [
      { text: "road", at: [100, 100] },
      { text: "chicken", at: [495, 50] },
    ],
    500,
  );
  expect(middle!.anchor).toBe("start");
  expect(edge!.anchor).toBe("end");
  const same = placeLabels(Array.from({ length: 3 }, () => ({ text: "road", at: [100, 100] as [number, number] })), 500);
  const [crowded] = placeLabels([{ text: "road", at: [100, 100] }, { text: "wide", at: [115, 100] }], 500);
  expect(crowded!.anchor).toBe("end");
  expect(new Set(same.map(({ x, y }) => `${x} ${y}`)).size).toBe(3);
});
