import { useFeed, useStatus } from "@ticker/sdk/react";
import { useEffect, useRef } from "react";
import * as format from "./format";
import { useNow } from "./hooks";

const TRANSPORTS = { websocket: "WebSocket", sse: "events (SSE)", polling: "polling" } as const;

/** How the connection is: what an operator asks for first. */
export function Connection() {
  const feed = useFeed();
  const { state, transport, rttMs, retryAt, feeds, epoch, delayMs } = useStatus();
  const now = useNow();
  const stats = feed.stats;
  const before = useRef({ now, messages: 0, bytes: 0, rate: { messages: 0, bytes: 0 } });
  const seconds = (now - before.current.now) / 1000;
  const rate =
    seconds > 0
      ? { messages: (stats.messages - before.current.messages) / seconds, bytes: (stats.bytes - before.current.bytes) / seconds }
      : before.current.rate;
  useEffect(() => {
    before.current = { now, messages: stats.messages, bytes: stats.bytes, rate };
  }, [now]);

  const shown = state === "waiting" && retryAt !== null ? `trying again in ${Math.max(0, Math.ceil((retryAt - now) / 1000))} s` : state;
  const entries: [string, string][] = [
    ["Connection", shown],
    ["Over", transport === null ? format.NONE : TRANSPORTS[transport]],
    ["Round trip", rttMs === null ? format.NONE : `${Math.round(rttMs)} ms`],
    ["Messages", `${rate.messages.toFixed(0)}/s`],
    ["Data", `${format.bytes(rate.bytes)}/s`],
    ["Skipped rounds", String(stats.skipped)],
    ["Reconnects", String(stats.reconnects)],
    ["Resumed", String(stats.resumes)],
    ["Resyncs", String(stats.resyncs)],
  ];
  return (
    <details className="connection">
      <summary>
        <span className="lamp" data-state={state} aria-hidden="true" />
        {shown}
        {transport !== null && state === "open" && <span className="by"> · {TRANSPORTS[transport]}</span>}
        {delayMs > 0 && <span className="by"> · prices are {format.age(delayMs / 1000)} late</span>}
      </summary>
      <dl>
        {entries.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
        {Object.entries(feeds).map(([name, { state: feedState, lag }]) => (
          <div key={name}>
            <dt>Feed {name}</dt>
            <dd>
              {feedState}
              {lag != null && lag > 0 ? `, ${lag} behind` : ""}
            </dd>
          </div>
        ))}
        <div>
          <dt>Log</dt>
          <dd className="epoch">{epoch ?? format.NONE}</dd>
        </div>
      </dl>
    </details>
  );
}
