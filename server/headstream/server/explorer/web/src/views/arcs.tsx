import { useEffect, useRef } from "preact/hooks";
import type { Token } from "../api/readings";
import { percent, showSurface } from "../text/show";
import { positionsOf, type Window } from "../text/window";

const WIDEST = 62; // pixels of a token
const NARROWEST = 50;
const WIDE = 700;
const TALL = 130;
const FAINTEST = 0.01;

interface Props {
  tokens: Token[];
  /** The weight of every key. */
  row: Float32Array;
  query: number;
  view: Window;
  onChoose: (position: number) => void;
}

/** Arcs from one token to those it looks at, as thick as the weight. */
export function Arcs({ tokens, row, query, view, onChoose }: Props) {
  const positions = positionsOf(view);
  const wide = Math.max(NARROWEST, Math.min(WIDEST, WIDE / positions.length));
  const x = (position: number) => (position - view.start + 0.5) * wide;
  const frame = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const { current } = frame;
    if (current) current.scrollLeft = x(query) - current.clientWidth * 0.8; // it looks back
  }, [query, view.start]);
  const reach = Math.max(...positions.map((key) => Math.abs(key - query)), 1);
  const seen = positions.reduce((sum, key) => sum + (row[key] ?? 0), 0);
  const drawn = positions.filter((key) => (row[key] ?? 0) >= FAINTEST);
  return (
    <>
      <div class="scroll" tabIndex={0} role="group" aria-label="Attention arcs" ref={frame}>
        <svg
          class="arcs"
          width={positions.length * wide}
          height={TALL + 46}
          role="img"
          aria-label={`Attention from position ${query}; the list below has the numbers`}
        >
          {drawn.map((key) => {
            const height = 18 + (TALL - 30) * (Math.abs(key - query) / reach);
            const weight = row[key]!;
            const middle = (x(key) + x(query)) / 2;
            const path =
              key === query
                ? `M${x(key) - 7} ${TALL} C${x(key) - 18} ${TALL - 34} ${x(key) + 18} ${TALL - 34} ${x(key) + 7} ${TALL}`
                : `M${x(query)} ${TALL} Q${middle} ${TALL - 2 * height + 18} ${x(key)} ${TALL}`;
            return (
              <path
                key={key}
                class="arc"
                d={path}
                stroke-width={1 + 9 * weight}
                stroke-opacity={0.25 + 0.75 * weight}
              >
                <title>{`${percent(weight)} on position ${key}`}</title>
              </path>
            );
          })}
          {positions.map((at) => (
            <g key={at} class={at === query ? "arc-token chosen" : "arc-token"} onClick={() => onChoose(at)}>
              <text x={x(at)} y={TALL + 18}>
                {clip(showSurface(tokens[at]!.surface))}
              </text>
              <text class="arc-weight" x={x(at)} y={TALL + 36}>
                {(row[at] ?? 0) >= FAINTEST ? percent(row[at]!) : ""}
              </text>
            </g>
          ))}
        </svg>
      </div>
      {seen < 0.995 && (
        <p class="hint">{percent(1 - seen)} of the attention is on tokens outside this stretch.</p>
      )}
    </>
  );
}

const clip = (text: string): string => (text.length > 7 ? `${text.slice(0, 6)}…` : text);
