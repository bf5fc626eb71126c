// The messages of proto/headstream/v1 as protobuf JSON, as far as the page reads them.

export interface Tensor {
  dtype: string;
  shape: string[];
  data: string;
}

export interface TokenTable {
  ids: number[];
  surfaces: string[];
  charStarts: number[];
  charEnds: number[];
  special: boolean[];
}

export interface Logits {
  values: Tensor;
  tokenIds: number[];
}

export interface Model {
  name: string;
  state: string;
  family: string;
  bidirectional: boolean;
  eosTokenIds: number[];
  capabilities: { method: string; served: boolean }[];
  sizes?: { layers: number; dimensions: number; heads: number; vocabulary: number };
  limits?: { maxModelTokens: number; maxNewTokens: number };
  fingerprint?: { dtype: string; backend: string; quantization: string };
}

export interface ScoreResponse {
  positions?: {
    start: number;
    tokenIds: number[];
    logprobs: number[];
    ranks: number[];
    entropies: number[];
    logits?: Logits;
  };
  summary?: { logprob: number; perplexity: number; scoredTokens: number };
}

export interface GenerateResponse {
  step?: { index: number; tokenId: number; text: string; logits?: Logits };
  end?: { text: string; finishReason: string };
}

export interface EmbedTokensResponse {
  start?: { tokens: TokenTable; layers: number[]; dimensions: number };
  chunk?: { layerIndex: number; start: number; rows: Tensor };
}

export interface TraceResponse {
  start?: { tokens: TokenTable };
  values?: { chunks: { site: string; layer: number; start: number; values: Tensor }[] };
}

export interface AttentionResponse {
  start?: { tokens: TokenTable };
  chunk?: { layer: number; heads: number[]; queries: number[]; weights: Tensor };
}

export interface LogitLensResponse {
  row?: { layer: number; position: number; logits: Logits };
}
