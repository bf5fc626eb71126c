// The calls of the views, each gathered into what the view shows.

import { ask, call } from "./call";
import type {
  AttentionResponse,
  EmbedTokensResponse,
  GenerateResponse,
  LogitLensResponse,
  Logits,
  ScoreResponse,
  TokenTable,
  TraceResponse,
} from "./messages";
import { toBytes, toRows } from "./tensor";

/** Replies of the map and of the steering vector are refused by the server above this. */
export const MAX_BYTES = 32 * 1024 * 1024;

export interface Token {
  id: number;
  surface: Uint8Array;
  special: boolean;
}

export interface Candidate {
  id: number;
  logprob: number;
}

export interface Scored {
  logprob: number;
  rank: number;
  entropy: number;
}

export interface Scoring {
  /** By position; the first token has no score. */
  tokens: (Scored | null)[];
  /** What may come after each position; the last is not scored, so it has none here. */
  next: Candidate[][];
  perplexity: number | null;
}

export function toTokens(table: TokenTable): Token[] {
  return table.ids.map((id, i) => ({
    id,
    surface: toBytes(table.surfaces[i]!),
    special: table.special[i]!,
  }));
}

function toCandidates(logits: Logits): Candidate[][] {
  const rows = toRows(logits.values);
  let at = 0;
  return rows.map((row) =>
    Array.from(row, (logprob) => ({ id: logits.tokenIds[at++]!, logprob })),
  );
}

export async function tokenize(model: string, text: string, signal: AbortSignal): Promise<Token[]> {
  const request = { model, text };
  const reply = await ask<{ tokens: TokenTable }>("TokenizerService/Tokenize", request, signal);
  return toTokens(reply.tokens);
}

export async function surfacesOf(
  model: string,
  ids: number[],
  signal: AbortSignal,
): Promise<Uint8Array[]> {
  const request = { model, ids };
  const reply = await ask<{ surfaces: string[] }>("TokenizerService/Detokenize", request, signal);
  return reply.surfaces.map(toBytes);
}

const topLogprobs = (topK: number) => ({
  mode: "LOGITS_MODE_TOP_K",
  topK,
  scale: "LOGITS_SCALE_LOGPROBS",
});

export async function score(
  model: string,
  text: string,
  topK: number,
  signal: AbortSignal,
): Promise<Scoring> {
  const request = { model, inputs: [{ text }], logits: topLogprobs(topK) };
  const scoring: Scoring = { tokens: [null], next: [], perplexity: null };
  for await (const reply of call<ScoreResponse>("LogitsService/Score", request, signal)) {
    const found = reply.positions;
    found?.logprobs.forEach((logprob, i) =>
      scoring.tokens.push({ logprob, rank: found.ranks[i]!, entropy: found.entropies[i]! }),
    );
    if (found?.logits) scoring.next.push(...toCandidates(found.logits));
    if (reply.summary) scoring.perplexity = reply.summary.perplexity;
  }
  return scoring;
}

/** What may come after the whole text. */
export async function nextTokens(
  model: string,
  text: string,
  topK: number,
  signal: AbortSignal,
): Promise<Candidate[]> {
  const stop = { maxNewTokens: 1, ignoreEos: true };
  const request = { model, prompt: { text }, stop, logits: topLogprobs(topK) };
  for await (const reply of call<GenerateResponse>("LogitsService/Generate", request, signal))
    if (reply.step?.logits) return toCandidates(reply.step.logits)[0] ?? [];
  return [];
}

export interface Pattern {
  /** Query positions of the rows. */
  queries: number[];
  /** For each query the weight of every key. */
  rows: Float32Array[];
}

/** Attention weights of one layer: of one head, or the mean over all. */
export async function attention(
  model: string,
  text: string,
  layer: number,
  head: number | null,
  queries: number[],
  signal: AbortSignal,
): Promise<Pattern> {
  const chosen = head === null ? { averageHeads: true } : { heads: [head] };
  const request = { model, input: { text }, layers: [layer], queries, ...chosen };
  const pattern: Pattern = { queries: [], rows: [] };
  for await (const reply of call<AttentionResponse>("InternalsService/Attention", request, signal))
    if (reply.chunk) {
      pattern.queries.push(...reply.chunk.queries);
      pattern.rows.push(...toRows(reply.chunk.weights));
    }
  return pattern;
}

/** By layer, then by position. */
export type Lens = Map<number, Map<number, Candidate[]>>;

export async function logitLens(
  model: string,
  text: string,
  start: number,
  end: number,
  topK: number,
  signal: AbortSignal,
): Promise<Lens> {
  const positions = { start, end };
  const request = { model, input: { text }, positions, logits: topLogprobs(topK) };
  const lens: Lens = new Map();
  for await (const reply of call<LogitLensResponse>("InternalsService/LogitLens", request, signal))
    if (reply.row) {
      const { layer, position, logits } = reply.row;
      if (!lens.has(layer)) lens.set(layer, new Map());
      lens.get(layer)!.set(position, toCandidates(logits)[0] ?? []);
    }
  return lens;
}

export interface Contextual {
  tokens: Token[];
  /** By layer from 0 to L, then by position. */
  layers: Float32Array[][];
}

export async function contextual(
  model: string,
  text: string,
  numLayers: number,
  signal: AbortSignal,
): Promise<Contextual> {
  const layers = Array.from({ length: numLayers + 1 }, (_, i) => i);
  const request = { model, input: { text }, layers: { layers }, maxReplyBytes: `${MAX_BYTES}` };
  const result: Contextual = { tokens: [], layers: layers.map(() => []) };
  const replies = call<EmbedTokensResponse>("EmbeddingsService/EmbedTokens", request, signal);
  for await (const { start, chunk } of replies) {
    if (start) result.tokens = toTokens(start.tokens);
    if (chunk)
      toRows(chunk.rows).forEach((row, i) => {
        result.layers[chunk.layerIndex]![chunk.start + i] = row;
      });
  }
  return result;
}

/** Rows of the embedding matrix, in the order of the ids. */
export async function staticVectors(
  model: string,
  ids: number[],
  signal: AbortSignal,
): Promise<Float32Array[]> {
  const request = { model, input: { tokenIds: { ids } } };
  const reply = await ask<{ rows: Parameters<typeof toRows>[0] }>(
    "EmbeddingsService/LookupEmbeddings",
    request,
    signal,
  );
  return toRows(reply.rows);
}

/** The residual stream behind a layer, of the tokens that are not special. */
export async function residual(
  model: string,
  text: string,
  layer: number,
  signal: AbortSignal,
): Promise<Float32Array[]> {
  const sites = [{ name: "resid_post", layers: [layer] }];
  const request = { model, input: { text }, sites, maxReplyBytes: `${MAX_BYTES}` };
  const rows: Float32Array[] = [];
  let special: boolean[] = [];
  for await (const reply of call<TraceResponse>("InternalsService/Trace", request, signal)) {
    if (reply.start) special = reply.start.tokens.special;
    for (const { start, values } of reply.values?.chunks ?? [])
      toRows(values).forEach((row, i) => {
        if (!special[start + i]) rows.push(row);
      });
  }
  return rows;
}

/** The text that follows a prompt, handed over as it grows. */
export async function* continueText(
  request: object,
  signal: AbortSignal,
): AsyncGenerator<string> {
  let text = "";
  for await (const reply of call<GenerateResponse>("LogitsService/Generate", request, signal)) {
    const more = reply.step?.text ?? reply.end?.text ?? "";
    if (more) yield (text += more);
  }
}

