import { afterEach, expect, it, vi } from "vitest";
import { ask, call, lines, ServerError, wordsOf } from "./call";
import { whyNot } from "./models";
import { score } from "./readings";
import recorded from "./recorded.json";
import { toBase64, toFloats, toRows } from "./tensor";

const stay = new AbortController().signal;

function body(...parts: string[]): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(new TextEncoder().encode(part));
      controller.close();
    },
  });
}

const answer = (...parts: string[]) =>
  vi.stubGlobal("fetch", vi.fn(async () => new Response(body(...parts))));

afterEach(() => vi.unstubAllGlobals());

it("cuts lines wherever the network cut them", async () => {
  const found: string[] = [];
  for await (const line of lines(body('{"a"', ":1}\n{", '"b":2}\n{"c":', "3}"))) found.push(line);
  expect(found).toEqual(['{"a":1}', '{"b":2}', '{"c":3}']);
});

it("throws the server's own words, also behind a first reply", async () => {
  answer('{"index": 1}\n', JSON.stringify(recorded.error) + "\n");
  const replies = call<{ index: number }>("X/Y", {}, stay);
  expect((await replies.next()).value).toEqual({ index: 1 });
  const failure = await replies.next().catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(ServerError);
  expect(failure).toMatchObject({ code: 3, reason: "INVALID_FIELD" });
  expect(wordsOf(failure)).toBe(recorded.error.error.message);
});

it("does not take an empty answer for one", async () => {
  answer("");
  await expect(ask("X/Y", {}, stay)).rejects.toThrow("without an answer");
});

it("gathers a scoring", async () => {
  answer(recorded.score.map((line) => JSON.stringify(line) + "\n").join(""));
  const scoring = await score("", "The chicken did", 2, stay);
  expect(scoring.tokens.map((token) => token?.rank)).toEqual([undefined, 4, 2988, 89]);
  expect(scoring.next.map((row) => row.map(({ id }) => id))).toEqual([
    [184, 198],
    [236743, 1171],
    [563, 691],
  ]);
  expect(scoring.next[0]![0]!.logprob).toBeCloseTo(-2.4912, 3);
  expect(scoring.perplexity).toBeCloseTo(1624.97, 2);
});

it("reads and writes tensors", () => {
  const data = toBase64(Float32Array.of(1, -2.5, 3, 4));
  const tensor = { dtype: "DATA_TYPE_FLOAT32", shape: ["2", "2"], data };
  expect([...toFloats(tensor)]).toEqual([1, -2.5, 3, 4]);
  expect(toRows(tensor).map((row) => [...row])).toEqual([
    [1, -2.5],
    [3, 4],
  ]);
  expect(() => toFloats({ ...tensor, dtype: "DATA_TYPE_INT8" })).toThrow("DATA_TYPE_INT8");
});

it("says why a view has nothing to show", () => {
  const capabilities = [{ method: "headstream.v1.LogitsService/Score", served: true }];
  const model = { ...recorded.model, capabilities };
  expect(whyNot(model, "LogitsService/Score")).toBeNull();
  expect(whyNot(model, "InternalsService/Trace")).toContain("InternalsService/Trace");
  expect(whyNot({ ...model, bidirectional: true }, "InternalsService/LogitLens")).toContain("encoder");
  expect(whyNot({ ...model, state: "MODEL_STATE_LOADING" }, "LogitsService/Score")).toContain("loaded");
});
