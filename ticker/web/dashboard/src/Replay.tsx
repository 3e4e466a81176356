import type { Source } from "@ticker/sdk";
import { useFeed, useStatus } from "@ticker/sdk/react";
import { useEffect, useState } from "react";
import * as format from "./format";

const SPEEDS: readonly (number | "max")[] = [0.5, 1, 2, 5, 10, 60, 600, "max"];

/** The clock of a replay: play, pause, speed, a time line, steps. */
export function ReplayBar({ source }: { source: string }) {
  const feed = useFeed();
  const { clock, span, state } = useStatus();
  const [aimed, setAimed] = useState<number | null>(null);
  const [known, setKnown] = useState<number | null>(null);
  const unknown = span !== null && span.to === null;
  useEffect(() => {
    if (!unknown) return;
    // Where a recording ends that is text, the server finds out by reading it.
    feed.sources().then(
      (items) => setKnown(items.find(({ source: name }) => name === source)?.to ?? null),
      () => {}, // then the time line ends where the clock is
    );
  }, [feed, unknown, source]);
  if (clock === null || span === null) return <p className="replay">opening the replay</p>;
  const open = state === "open";
  const playing = clock.state === "playing";
  const at = aimed ?? clock.ts;
  const end = span.to ?? known ?? Math.max(clock.ts, span.from + 1);
  const seek = (ts: number): void => {
    setAimed(null);
    feed.seek(Math.max(span.from, Math.min(end, ts)));
  };
  const minute = 60_000_000;
  return (
    <div className="replay" role="group" aria-label="Replay">
      <button type="button" disabled={!open || clock.state === "completed"} onClick={() => (playing ? feed.pause() : feed.play())}>
        {playing ? "Pause" : "Play"}
      </button>
      <button type="button" disabled={!open || playing || clock.state === "completed"} onClick={() => feed.step()}>
        Step
      </button>
      <label>
        <span className="unseen">Speed</span>
        <select
          disabled={!open}
          value={String(clock.speed)}
          onChange={(event) => feed.speed(event.target.value === "max" ? "max" : Number(event.target.value))}
        >
          {(SPEEDS.includes(clock.speed) ? SPEEDS : [clock.speed, ...SPEEDS]).map((speed) => (
            <option key={speed} value={speed}>
              {speed === "max" ? "as fast as can be" : `${speed}×`}
            </option>
          ))}
        </select>
      </label>
      <input
        type="range"
        aria-label="Time of the replay"
        aria-valuetext={`${format.date(at)} ${format.clock(at)} UTC`}
        disabled={!open}
        min={span.from}
        max={end}
        step={1_000_000}
        value={at}
        onChange={(event) => setAimed(Number(event.target.value))}
        onPointerUp={() => aimed !== null && seek(aimed)}
        onKeyUp={(event) => aimed !== null && event.key !== "Tab" && seek(aimed)}
        onBlur={() => aimed !== null && seek(aimed)}
        onKeyDown={(event) => {
          const by = { PageUp: minute, PageDown: -minute }[event.key];
          if (by === undefined) return;
          event.preventDefault();
          setAimed(Math.max(span.from, Math.min(end, at + by)));
        }}
      />
      <output>
        {format.date(at)} {format.clock(at)} UTC{clock.state === "seeking" || clock.state === "completed" ? ` · ${clock.state}` : ""}
      </output>
    </div>
  );
}

/** What there is to replay, asked for when it is looked at: a server reads all of a recording to tell what is in it. */
export function Sources({ current }: { current: string | null }) {
  const feed = useFeed();
  const [sources, setSources] = useState<readonly Source[] | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  function look(): void {
    setFailure(null);
    feed.sources().then(
      (items) => setSources(items.filter(({ then }) => then === undefined)),
      (reason: unknown) => setFailure(reason instanceof Error ? reason.message : String(reason)),
    );
  }
  return (
    <details
      className="menu"
      onToggle={(event) => event.currentTarget.open && sources === null && look()}
      onBlur={(event) => !event.currentTarget.contains(event.relatedTarget) && (event.currentTarget.open = false)}
    >
      <summary>Replays</summary>
      <ul tabIndex={-1}>
        {current !== null && (
          <li>
            <a href="./">Back to live</a>
          </li>
        )}
        {sources?.map(({ source, from }) => (
          <li key={source}>
            <a href={`./?${new URLSearchParams({ replay: source })}`} aria-current={source === current ? "page" : undefined}>
              {source}
              {from != null && <small> {format.date(from)}</small>}
            </a>
          </li>
        ))}
        {failure !== null && <li role="alert">{failure}</li>}
        {failure === null && sources === null && <li>Looking</li>}
        {sources?.length === 0 && <li>This server has no recordings.</li>}
      </ul>
    </details>
  );
}
