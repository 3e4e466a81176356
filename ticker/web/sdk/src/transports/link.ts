/** A connection to a server, by whichever way: what it is given, and what it tells. */

import type { Ask } from "../interests.ts";
import { type Command, isObject, PROTOCOL, type Welcome } from "../protocol.ts";

/** How a connection ended, or why there was none. */
export interface Ending {
  /** `blocked`: there was no connection by this way, which says nothing of the server. */
  readonly kind: "closed" | "refused" | "blocked" | "broken";
  /** The close code of a WebSocket, or the status of an HTTP answer. */
  readonly code?: number;
  readonly message: string;
  /** How long the server asked to stay away. */
  readonly afterMs?: number;
}

export interface LinkEvents {
  opened(): void;
  /** The text of one message. */
  message(text: string): void;
  /** Nothing comes after this; a link that is closed by its owner does not tell it. */
  ended(ending: Ending): void;
}

export interface Link {
  /** Whether it takes commands; one that does not is told what is wanted. */
  readonly talks: boolean;
  send(command: Command): void;
  /** Bring this, in place of what it brought before. Of a link that does not talk. */
  follow(asks: readonly Ask[]): void;
  close(): void;
}

/** What of its surroundings the SDK uses: a test puts others in their place. */
export interface Surroundings {
  readonly WebSocket: (new (url: string, protocols?: string | string[]) => WebSocket) | undefined;
  readonly fetch: typeof fetch;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly random: () => number;
  readonly setTimeout: (callback: () => void, ms: number) => unknown;
  readonly clearTimeout: (timer: unknown) => void;
}

/** What plain requests tell of a server before anything is asked for: a `welcome`, as a WebSocket would begin with. */
export async function greeting(base: string, headers: Record<string, string>, heartbeatMs: number, signal: AbortSignal, around: Surroundings): Promise<Welcome | Ending> {
  const response = await around.fetch(`${base}/v1/symbols?limit=1`, { headers, signal, cache: "no-store" });
  if (!response.ok) return { kind: "refused", code: response.status, message: await reason(response), afterMs: retryAfterMs(response) };
  const { epoch, delay_ms } = (await response.json()) as { epoch: string; delay_ms?: number };
  return welcome(epoch, heartbeatMs, delay_ms);
}

export function welcome(epoch: string, heartbeatMs: number, delayMs = 0): Welcome {
  const about = { protocol: PROTOCOL, mode: "live", epoch, ts: 0, heartbeat_ms: heartbeatMs, interval_ms: 1000 } as const;
  return { type: "welcome", ...about, delay_ms: delayMs, limits: { symbols: 1000 } };
}

/** What an error says for itself. */
export async function reason(response: Response): Promise<string> {
  const text = (await response.text()).trim();
  try {
    const body: unknown = JSON.parse(text);
    if (isObject(body) && typeof body.message === "string") return body.message;
  } catch {
    // not JSON: as it is
  }
  return text.length > 0 && text.length < 200 ? text : `HTTP ${response.status}`;
}

export function authorization(token: string | null): Record<string, string> {
  return token === null ? {} : { authorization: `Bearer ${token}` };
}

/** `Retry-After` in seconds, as milliseconds; 0 where it is absent or no number. */
export function retryAfterMs(response: Response): number {
  const text = response.headers.get("retry-after")?.trim() ?? "";
  return /^\d{1,6}$/.test(text) ? Number(text) * 1000 : 0;
}
