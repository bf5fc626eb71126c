import { percent } from "../text/show";

export interface Bar {
  key: number;
  text: string;
  note: string;
  share: number;
}

/** Shares of one whole as a list of bars; the longest fills the width. */
export function Bars({ bars, label }: { bars: Bar[]; label: string }) {
  const most = Math.max(...bars.map(({ share }) => share), 1e-9);
  return (
    <ol class="bars" aria-label={label}>
      {bars.map(({ key, text, note, share }) => (
        <li key={key} style={{ "--share": `${share / most}` }}>
          <code class="bar-text">{text}</code>
          <span class="bar-note">{note}</span>
          <span class="bar-value">{percent(share)}</span>
        </li>
      ))}
    </ol>
  );
}
