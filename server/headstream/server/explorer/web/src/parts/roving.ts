// Arrow keys over items of which one is in the tab order.

/** The item that a key leads to from `at`; null where the key is none of these. */
export function step(key: string, at: number, count: number, columns: number): number | null {
  const to: Record<string, number> = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    Home: 0,
    End: count - 1,
  };
  const next = to[key];
  if (next === undefined) return null;
  return next >= 0 && next < count ? next : at;
}

/** The item in the line above or below that lies nearest, where lines are as long as they come. */
export function stepLine(items: HTMLElement[], at: number, down: boolean): number {
  const here = items[at]!;
  const beyond = items
    .map((item, i) => ({ i, top: item.offsetTop, left: item.offsetLeft }))
    .filter(({ top }) => (down ? top > here.offsetTop : top < here.offsetTop));
  if (beyond.length === 0) return at;
  const tops = beyond.map(({ top }) => top);
  const line = down ? Math.min(...tops) : Math.max(...tops);
  const distance = (left: number) => Math.abs(left - here.offsetLeft);
  return beyond
    .filter(({ top }) => top === line)
    .reduce((best, item) => (distance(item.left) < distance(best.left) ? item : best)).i;
}
