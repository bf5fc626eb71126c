import { useEffect, useState } from "preact/hooks";
import { wordsOf } from "./api/call";

/** Where a question to the server stands. While a new one is under way the old value stays. */
export interface Reply<Value> {
  busy: boolean;
  /** The value is that of the question before. */
  stale: boolean;
  value: Value | null;
  error: string | null;
}

const PAUSE_MS = 120;
const NONE = { busy: false, stale: false, value: null, error: null };

/**
 * Ask the server anew whenever `key` changes, after a short pause; null asks nothing. What is still
 * under way for an older key is cancelled.
 */
export function useReply<Value>(
  key: string | null,
  load: (signal: AbortSignal, show: (value: Value) => void) => Promise<Value>,
): Reply<Value> {
  const [reply, setReply] = useState<Reply<Value>>(NONE);
  useEffect(() => {
    if (key === null) {
      setReply(NONE);
      return;
    }
    const control = new AbortController();
    const { signal } = control;
    setReply(({ value }) => ({ busy: true, stale: true, value, error: null }));
    const run = async () => {
      try {
        const value = await load(signal, (part) => {
          if (!signal.aborted) setReply({ busy: true, stale: false, value: part, error: null });
        });
        if (!signal.aborted) setReply({ busy: false, stale: false, value, error: null });
      } catch (error) {
        if (!signal.aborted) setReply({ ...NONE, error: wordsOf(error) });
      }
    };
    const timer = setTimeout(() => void run(), PAUSE_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [key]);
  return key === null ? NONE : reply; // at once, before the effect has run
}

/** A key for `useReply` from all that the question depends on. */
export const keyOf = (...parts: unknown[]): string => JSON.stringify(parts);
