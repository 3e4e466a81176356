/** The wire protocol `ticker.v1`: what a server says, and what it is told. See docs/protocol.md. */

export const PROTOCOL = "ticker.v1";

/** The fields of a quote that can be asked for, in the order of the wire. */
export const FIELDS = [
  ...(["bid", "bid_size", "ask", "ask_size", "last", "last_size", "last_ts", "open", "high", "low"] as const),
  ...(["volume", "vwap", "trades", "change", "change_pct", "session"] as const),
] as const;

export type Field = (typeof FIELDS)[number];
export type Channel = "ticker" | "trades" | "bars";
export type BarInterval = "1s" | "1m" | "5m" | "1h" | "1d";

/** The state of a symbol at `seq`: immutable, another object after each change. Times are microseconds since 1970. */
export interface Quote extends Readonly<Partial<Record<Field, number | null>>> {
  readonly symbol: string;
  readonly seq: number;
  /** The server's count of the symbol's ticks. */
  readonly n: number;
  readonly ts: number | null;
  /** Highest and lowest price and volume of the trades that the last update brought; absent where there was none. */
  readonly hi?: number;
  readonly lo?: number;
  readonly vol?: number;
}

export interface Trade {
  readonly symbol: string;
  readonly seq: number;
  /** The place within the record that `seq` names. */
  readonly i: number;
  readonly ts: number;
  readonly price: number | null;
  readonly size: number | null;
  readonly side: "buy" | "sell" | null;
  readonly id: string | null;
}

/** Trades at the positions after `from`, up to and with `to`, that are lost: `count`, null where nobody knows. */
export interface Gap {
  readonly symbol: string;
  readonly from: number;
  readonly to: number;
  readonly count: number | null;
}

export interface Bar {
  readonly symbol: string;
  readonly seq: number;
  /** Rises with each revision by a late trade. */
  readonly rev: number;
  readonly start: number;
  readonly end: number;
  readonly open: number;
  readonly high: number;
  readonly low: number;
  readonly close: number;
  readonly volume: number;
  readonly vwap: number | null;
  readonly trades: number;
  readonly closed: boolean;
}

export interface FeedState {
  readonly state: "starting" | "live" | "stale" | "down" | "ended";
  readonly age_ms: number | null;
  readonly lag?: number | null;
}

export type ClockState = "paused" | "playing" | "seeking" | "completed" | "live";

export interface Rejection {
  readonly symbol: string;
  readonly code: string;
  readonly count?: number;
}

export interface UpdateItem extends Omit<Quote, "ts"> {
  readonly ts: number;
  readonly prev: number;
}

export interface Welcome {
  type: "welcome";
  protocol: string;
  mode: "live" | "replay";
  epoch: string;
  ts: number;
  heartbeat_ms: number;
  interval_ms: number;
  delay_ms?: number;
  limits: { symbols: number; message_bytes?: number; [limit: string]: number | undefined };
  speed?: number | "max";
  state?: ClockState;
  from?: number;
  to?: number | null;
  source?: string;
  control?: boolean;
}

export type ServerMessage =
  | Welcome
  | { type: "auth_required"; within_ms: number }
  | { type: "authenticated"; id?: Id; expires_in_ms?: number }
  | Subscribed
  | { type: "unsubscribed"; id?: Id; channel: Channel; symbols: string[]; rejected: Rejection[] }
  | { type: "snapshot"; id?: Id; ts: number; items: Quote[] }
  | { type: "update"; ts: number; items: UpdateItem[] }
  | { type: "trades"; ts: number; items: Trade[] }
  | ({ type: "gap"; channel: "trades" } & Gap)
  | { type: "bars"; interval: BarInterval; ts: number; items: Bar[] }
  | { type: "heartbeat"; ts: number; feeds: Record<string, FeedState> }
  | ({ type: "status"; ts: number; feed: string } & FeedState)
  | { type: "slow"; ts: number; skipped: number }
  | { type: "epoch"; epoch: string }
  | { type: "pong"; id?: Id; ts: number }
  | { type: "error"; id?: Id; code: string; message: string; fatal?: boolean; symbol?: string; count?: number }
  | { type: "shutdown"; ts: number; reconnect_after_ms: number }
  | { type: "clock"; id?: Id; ts: number; speed: number | "max"; state: ClockState; progress?: number }
  | { type: "replay_completed"; ts: number; ticks: number }
  | { type: "live"; ts: number };

export interface Subscribed {
  type: "subscribed";
  id?: Id;
  channel: Channel;
  interval?: BarInterval;
  symbols: string[];
  pending: string[];
  patterns: string[];
  resumed: Record<string, number>;
  rejected: Rejection[];
  interval_ms: number;
}

export type Id = number | string;
export type Command = { op: string; id?: number; [member: string]: unknown };

/** What a message must have for what is done with it; whatever else it has is let pass. */
const REQUIRED: { [type: string]: Record<string, "string" | "number" | "items" | "object"> } = {
  welcome: { protocol: "string", epoch: "string", heartbeat_ms: "number", limits: "object" },
  subscribed: { channel: "string", symbols: "items", rejected: "items", resumed: "object" },
  unsubscribed: { symbols: "items" },
  snapshot: { ts: "number", items: "items" },
  update: { ts: "number", items: "items" },
  trades: { items: "items" },
  bars: { interval: "string", items: "items" },
  gap: { symbol: "string", from: "number", to: "number" },
  heartbeat: { feeds: "object" },
  status: { feed: "string", state: "string" },
  slow: { skipped: "number" },
  epoch: { epoch: "string" },
  pong: {},
  auth_required: {},
  authenticated: {},
  error: { code: "string", message: "string" },
  shutdown: { reconnect_after_ms: "number" },
  clock: { ts: "number", state: "string" },
  replay_completed: { ts: "number" },
  live: { ts: "number" },
};

/** What a server sent that is no message of the protocol. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** One message of a server; null for a type that is not known, which is to be ignored. Throws ProtocolError. */
export function parse(text: string): ServerMessage | null {
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch {
    throw new ProtocolError(`expected JSON, was ${shown(text)}`);
  }
  if (!isObject(message) || typeof message.type !== "string") {
    throw new ProtocolError(`expected a message with a type, was ${shown(text)}`);
  }
  const required = Object.hasOwn(REQUIRED, message.type) ? REQUIRED[message.type] : undefined;
  if (required === undefined) return null;
  for (const [name, kind] of Object.entries(required)) {
    if (!fits(message[name], kind)) throw new ProtocolError(`${message.type}: ${name} is not as expected in ${shown(text)}`);
  }
  return message as unknown as ServerMessage;
}

function fits(value: unknown, kind: "string" | "number" | "items" | "object"): boolean {
  if (kind === "items") return Array.isArray(value);
  return kind === "object" ? isObject(value) : typeof value === kind;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shown(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
