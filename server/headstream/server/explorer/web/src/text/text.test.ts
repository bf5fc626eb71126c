import { expect, it } from "vitest";
import { fixed, percent, showSurface } from "./show";
import { windowAround } from "./window";

const bytes = (text: string) => new TextEncoder().encode(text);

it("shows white space and parts of characters", () => {
  expect(showSurface(bytes(" chicken\n"))).toBe("·chicken↵");
  expect(showSurface(Uint8Array.of(0xe2, 0x82))).toBe("\\xe2\\x82");
  expect(showSurface(bytes("東"))).toBe("東");
  expect(showSurface(Uint8Array.of())).toBe("∅");
});

it("writes numbers", () => {
  expect(fixed(-12.4396, 2)).toBe("−12.44");
  expect(percent(0.1234)).toBe("12.3 %");
  expect(percent(0.0001)).toBe("< 0.1 %");
  expect(percent(0)).toBe("0.0 %");
});

it("keeps a window inside the text", () => {
  expect(windowAround(0, 10, 4)).toEqual({ start: 0, end: 4 });
  expect(windowAround(5, 10, 4)).toEqual({ start: 3, end: 7 });
  expect(windowAround(9, 10, 4)).toEqual({ start: 6, end: 10 });
  expect(windowAround(1, 3, 8)).toEqual({ start: 0, end: 3 });
});
