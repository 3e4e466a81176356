import type { Ask } from "../interests.ts";
import { authorization, type Ending, greeting, type Link, type LinkEvents, reason, retryAfterMs, type Surroundings } from "./link.ts";

/** By address: the id of the last event, from which a later stream goes on. */
export type LastEvents = Map<string, string>;

/** A stream that has nothing to bring has no heartbeat either: it is taken for alive. */
const NO_HEARTBEAT_MS = 2 ** 31;

/**
 * The same messages as Server-Sent Events: one request for each way of being served. Read with `fetch`, which can carry a
 * token and tells why there is no answer; each stream resumes by its last event, of those that `last` holds.
 */
export function openEvents(base: string, token: string | null, last: LastEvents, events: LinkEvents, around: Surroundings): Link {
  const streams = new Map<string, AbortController>();
  const idle = new AbortController();
  let done = false;

  function end(ending: Ending): void {
    if (done) return;
    close();
    events.ended(ending);
  }

  function close(): void {
    done = true;
    idle.abort();
    for (const stream of streams.values()) stream.abort();
    streams.clear();
  }

  async function greet(): Promise<void> {
    try {
      const greeted = await greeting(base, authorization(token), NO_HEARTBEAT_MS, idle.signal, around);
      if (!("type" in greeted)) end(greeted);
      else if (!done && streams.size === 0) events.message(JSON.stringify(greeted));
    } catch (failure) {
      if (!idle.signal.aborted) end({ kind: "broken", message: String(failure) });
    }
  }

  queueMicrotask(() => {
    if (!done) events.opened();
  });
  return {
    talks: false,
    send() {},
    follow(asks: readonly Ask[]) {
      if (done) return;
      const wanted = new Map(asks.map((ask) => [addressOf(base, ask), ask]));
      for (const [address, stream] of streams) {
        if (!wanted.has(address)) {
          stream.abort();
          streams.delete(address);
        }
      }
      for (const [address, ask] of wanted) if (!last.has(address)) succeed(last, address, ask);
      for (const address of last.keys()) if (!wanted.has(address)) last.delete(address);
      for (const address of wanted.keys()) {
        if (streams.has(address)) continue;
        const stream = new AbortController();
        streams.set(address, stream);
        void read(address, token, last, stream.signal, events, around).then((ending) => {
          if (!stream.signal.aborted) end(ending);
        });
      }
      if (wanted.size === 0) void greet();
    },
    close,
  };
}

/** Other symbols of the same trades or bars: a stream of these goes on where the one before it was. */
function succeed(last: LastEvents, address: string, { terms }: Ask): void {
  if (terms.channel === "ticker") return; // a symbol that is new there is to come whole
  const kind = `channel=${terms.channel}${terms.interval === undefined ? "" : `&interval=${terms.interval}`}`;
  for (const [before, id] of last) {
    if (before.includes(kind)) last.set(address, id);
  }
}

function addressOf(base: string, { terms, symbols }: Ask): string {
  const query = new URLSearchParams({ symbols: symbols.join(",") });
  if (terms.channel !== "ticker") query.set("channel", terms.channel);
  if (terms.interval !== undefined) query.set("interval", terms.interval);
  if (terms.fields !== undefined) query.set("fields", terms.fields.join(","));
  if (terms.interval_ms !== undefined) query.set("interval_ms", String(terms.interval_ms));
  return `${base}/v1/sse?${query}`;
}

async function read(
  address: string,
  token: string | null,
  last: LastEvents,
  signal: AbortSignal,
  events: LinkEvents,
  { fetch }: Surroundings,
): Promise<Ending> {
  const from = last.get(address);
  const headers: Record<string, string> = { accept: "text/event-stream", ...authorization(token) };
  if (from !== undefined) headers["last-event-id"] = from;
  let answered = false;
  try {
    const response = await fetch(address, { headers, signal, cache: "no-store" });
    if (!response.ok || response.body === null) {
      return { kind: "refused", code: response.status, message: await reason(response), afterMs: retryAfterMs(response) };
    }
    answered = true;
    const parser = new EventParser((data, id) => {
      if (signal.aborted) return;
      events.message(data);
      if (id !== null) last.set(address, id);
    });
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) break;
      if (done) return { kind: "closed", message: "the stream of events ended" };
      parser.push(decoder.decode(value, { stream: true }));
    }
  } catch (failure) {
    if (!signal.aborted) return { kind: answered ? "closed" : "broken", message: String(failure) };
  }
  return { kind: "closed", message: "closed" };
}

/** The data and the id of events, as the HTML standard has their stream (section 9.2.6); what else a stream has is passed over. */
export class EventParser {
  #rest = "";
  #data: string[] = [];
  #id: string | null = null;

  constructor(private readonly tell: (data: string, id: string | null) => void) {}

  push(text: string): void {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line);
  }

  #line(line: string): void {
    if (line === "") {
      if (this.#data.length > 0) this.tell(this.#data.join("\n"), this.#id);
      this.#data = [];
      this.#id = null;
    } else if (line.startsWith("id:")) this.#id = line.slice(line.startsWith("id: ") ? 4 : 3);
    else if (line.startsWith("data:")) this.#data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
  }
}
