// Names beside marks, put where no other name and no mark stands.

import type { Point } from "../math/pca";

export interface Label {
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
}

interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const LETTER = 7; // pixels of one, about
const TALL = 12;
const GAP = 9;
const MARK = 6; // half of one

/** A place for the name of each mark inside the width: right, left, below or above it. */
export function placeLabels(marks: { text: string; at: Point }[], width: number): Label[] {
  const taken = marks.map(({ at: [x, y] }): Box => {
    return { left: x - MARK, right: x + MARK, top: y - MARK, bottom: y + MARK };
  });
  return marks.map(({ text, at: [x, y] }) => {
    const length = text.length * LETTER;
    const places: Label[] = [
      { x: x + GAP, y: y + 4, anchor: "start" },
      { x: x - GAP, y: y + 4, anchor: "end" },
      { x, y: y + GAP + 8, anchor: "middle" },
      { x, y: y - GAP, anchor: "middle" },
      { x: x + GAP, y: y + GAP + 8, anchor: "start" },
      { x: x - GAP, y: y - GAP, anchor: "end" },
    ];
    const inside = places.filter((place) => {
      const { left, right } = boxOf(place, length);
      return left >= 0 && right <= width;
    });
    const free = inside.find((place) => !taken.some((box) => meet(box, boxOf(place, length))));
    const chosen = free ?? inside[0] ?? places[0]!;
    taken.push(boxOf(chosen, length));
    return chosen;
  });
}

function boxOf({ x, y, anchor }: Label, length: number): Box {
  const left = anchor === "start" ? x : anchor === "end" ? x - length : x - length / 2;
  return { left, right: left + length, top: y - TALL, bottom: y };
}

const meet = (a: Box, b: Box): boolean =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
