import type { ComponentChildren } from "preact";
import type { Reply } from "../useReply";

interface Props {
  id: string;
  title: string;
  /** One sentence on what is seen. */
  about: string;
  /** Why there is nothing to see. */
  unavailable?: string | null;
  controls?: ComponentChildren;
  children: ComponentChildren;
}

/** One view: its title, what it shows, its controls, and its content or the reason for none. */
export function Panel({ id, title, about, unavailable, controls, children }: Props) {
  return (
    <section class="panel" id={id} aria-labelledby={`${id}-title`}>
      <header class="panel-head">
        <h2 id={`${id}-title`}>{title}</h2>
        <p class="about">{about}</p>
      </header>
      {unavailable ? (
        <p class="notice unavailable">{unavailable}</p>
      ) : (
        <>
          {controls && <div class="controls">{controls}</div>}
          {children}
        </>
      )}
    </section>
  );
}

interface ShownProps<Value> {
  reply: Reply<Value>;
  /** What stands there before anything was asked. */
  empty: string;
  children: (value: Value) => ComponentChildren;
}

/** A reply in its four states: not asked, on its way, failed, there. */
export function Shown<Value>({ reply, empty, children }: ShownProps<Value>) {
  if (reply.error !== null)
    return (
      <p class="notice error" role="alert">
        {reply.error}
      </p>
    );
  if (reply.value === null)
    return (
      <p class={reply.busy ? "notice busy" : "notice"} role="status">
        {reply.busy ? "Reading …" : empty}
      </p>
    );
  return (
    <div class={reply.stale ? "stale" : ""} aria-busy={reply.busy}>
      {children(reply.value)}
    </div>
  );
}
