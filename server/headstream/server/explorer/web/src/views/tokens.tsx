import { useRef } from "preact/hooks";
import type { Token, Scored, Scoring } from "../api/readings";
import { step, stepLine } from "../parts/roving";
import { count, fixed, showSurface } from "../text/show";
import { windowAround } from "../text/window";

export type Tint = "logprob" | "rank" | "entropy";

const MOST_CHIPS = 400;

/** How strongly a score is tinted: surprising, unlikely or undecided is 1. */
const STRENGTH: Record<Tint, (scored: Scored) => number> = {
  logprob: ({ logprob }) => Math.min(1, -logprob / 12),
  rank: ({ rank }) => Math.min(1, Math.log10(rank + 1) / 4),
  entropy: ({ entropy }) => Math.min(1, entropy / 8),
};

const SHOWN: Record<Tint, (scored: Scored) => string> = {
  logprob: ({ logprob }) => fixed(logprob, 2),
  rank: ({ rank }) => count(rank),
  entropy: ({ entropy }) => fixed(entropy, 2),
};

interface Props {
  tokens: Token[];
  scoring: Scoring | null;
  tint: Tint;
  position: number;
  onChoose: (position: number) => void;
}

/** The tokens as chips, one of them chosen. */
export function Tokens({ tokens, scoring, tint, position, onChoose }: Props) {
  const list = useRef<HTMLDivElement>(null);
  const { start, end } = windowAround(position, tokens.length, MOST_CHIPS);

  const onKeyDown = (event: KeyboardEvent) => {
    const chips = [...list.current!.querySelectorAll<HTMLElement>("[role=option]")];
    const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    const next = vertical
      ? start + stepLine(chips, position - start, event.key === "ArrowDown")
      : step(event.key, position, tokens.length, 1);
    if (next === null) return;
    event.preventDefault();
    onChoose(next);
    // Once the chips are those around the new position.
    setTimeout(() => list.current?.querySelector<HTMLElement>("[aria-selected=true]")?.focus());
  };

  return (
    <>
      {tokens.length > MOST_CHIPS && (
        <p class="hint">
          Tokens {count(start)} to {count(end - 1)} of {count(tokens.length)}; the others come into
          view as you walk.
        </p>
      )}
      <div
        class="tokens"
        role="listbox"
        aria-label="Tokens. Arrow keys choose a position."
        aria-orientation="horizontal"
        ref={list}
        onKeyDown={onKeyDown}
      >
        {tokens.slice(start, end).map((token, i) => {
          const at = start + i;
          const scored = scoring?.tokens[at] ?? null;
          return (
            <button
              key={at}
              type="button"
              class={token.special ? "chip special" : "chip"}
              role="option"
              aria-selected={at === position}
              aria-label={label(token, at, scored)}
              tabIndex={at === position ? 0 : -1}
              style={{ "--strength": `${scored ? STRENGTH[tint](scored) : 0}` }}
              onClick={() => onChoose(at)}
            >
              <span class="chip-text">{showSurface(token.surface)}</span>
              <span class="chip-id">{token.id}</span>
              <span class="chip-value">{scored ? SHOWN[tint](scored) : "–"}</span>
            </button>
          );
        })}
      </div>
    </>
  );
}

function label(token: Token, at: number, scored: Scored | null): string {
  const start = `position ${at}, ${showSurface(token.surface)}, id ${token.id}`;
  if (!scored) return `${start}, not scored`;
  const { logprob, rank, entropy } = scored;
  return `${start}, log-probability ${fixed(logprob, 2)}, rank ${rank}, entropy ${fixed(entropy, 2)}`;
}

/** Everything about the chosen token, in full. */
export function Chosen({ token, position, scored }: {
  token: Token;
  position: number;
  scored: Scored | null;
}) {
  const facts: [string, string, string][] = [
    ["Position", "position", `${position}`],
    ["Token", "token", showSurface(token.surface)],
    ["Id", "id", `${token.id}`],
  ];
  if (scored) {
    facts.push(["Log-probability", "logprob", fixed(scored.logprob, 4)]);
    facts.push(["Rank", "rank", count(scored.rank)]);
    facts.push(["Entropy, nats", "entropy", fixed(scored.entropy, 4)]);
  }
  return (
    <dl class="facts" id="chosen" aria-live="polite">
      {facts.map(([name, key, value]) => (
        <div key={key}>
          <dt>{name}</dt>
          <dd data-fact={key}>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
