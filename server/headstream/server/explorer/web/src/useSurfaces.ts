import { useEffect, useState } from "preact/hooks";
import type { Model } from "./api/messages";
import { surfacesOf } from "./api/readings";
import { showSurface } from "./text/show";

const MOST = 1000; // ids of one call, at most what the model reads

/** Token id to text, for ids that no token table tells. Until the server has told, the id itself. */
export function useSurfaces(model: Model, ids: number[]): (id: number) => string {
  const [known, setKnown] = useState<ReadonlyMap<number, string>>(new Map());
  const most = Math.min(MOST, model.limits?.maxModelTokens ?? MOST);
  useEffect(() => setKnown(new Map()), [model.name]);
  const missing = [...new Set(ids)].filter((id) => !known.has(id)).slice(0, most);
  useEffect(() => {
    if (missing.length === 0) return;
    const control = new AbortController();
    surfacesOf(model.name, missing, control.signal)
      .then((surfaces) =>
        setKnown((old) => {
          const found = missing.map((id, i): [number, string] => [id, showSurface(surfaces[i]!)]);
          return new Map([...old, ...found]);
        }),
      )
      .catch(() => undefined); // the ids stay, and the view's own call tells what is wrong
    return () => control.abort();
  }, [model.name, missing.join()]);
  return (id) => known.get(id) ?? `#${id}`;
}
