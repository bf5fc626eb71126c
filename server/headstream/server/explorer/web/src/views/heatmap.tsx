import type { Pattern, Token } from "../api/readings";
import { percent, showSurface } from "../text/show";
import { positionsOf, type Window } from "../text/window";

const FAINTEST = 0.004;

interface Props {
  pattern: Pattern;
  view: Window;
  query: number;
  tokens: Token[];
  onChoose: (position: number) => void;
}

/** Queries downwards, keys to the right; the darker the larger. */
export function HeatMap({ pattern, view, query, tokens, onChoose }: Props) {
  const keys = positionsOf(view);
  const size = keys.length;
  return (
    <figure class="heat">
      <svg viewBox={`0 0 ${size} ${size}`} role="img" aria-label="Attention of all queries (down) on all keys (right)">
        <rect class="heat-ground" width={size} height={size} />
        {pattern.queries.map((at, i) =>
          keys
            .filter((key) => (pattern.rows[i]![key] ?? 0) >= FAINTEST)
            .map((key) => (
              <rect
                key={`${at}:${key}`}
                class="heat-cell"
                x={key - view.start}
                y={at - view.start}
                width={1}
                height={1}
                fill-opacity={pattern.rows[i]![key]! ** 0.6}
                onClick={() => onChoose(at)}
              >
                <title>
                  {`${showSurface(tokens[at]!.surface)} (${at}) on ${showSurface(tokens[key]!.surface)} (${key}): ${percent(pattern.rows[i]![key]!)}`}
                </title>
              </rect>
            )),
        )}
        {query >= view.start && query < view.end && (
          <rect class="heat-row" x={0} y={query - view.start} width={size} height={1} />
        )}
      </svg>
      <figcaption>Queries down, keys to the right; the framed row is the chosen token's.</figcaption>
    </figure>
  );
}
