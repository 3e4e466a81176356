import type { Status } from "@ticker/sdk";
import { useStatus } from "@ticker/sdk/react";
import { createContext, useCallback, useContext, useEffect, useState, useSyncExternalStore } from "react";
import type { Market, Row } from "./market";

export const MarketContext = createContext<Market | null>(null);

export function useMarket(): Market {
  const market = useContext(MarketContext);
  if (market === null) throw new Error("expected a market above");
  return market;
}

/** The row of one symbol, rendered when it changes and only then. */
export function useRow(symbol: string): Row | undefined {
  const market = useMarket();
  return useSyncExternalStore(
    useCallback((notify) => market.onRow(symbol, notify), [market, symbol]),
    () => market.rows.get(symbol),
  );
}

/** Which symbols have rows: a number that rises when another one has. */
export function useRowsVersion(): number {
  const market = useMarket();
  return useSyncExternalStore(
    useCallback((notify) => market.onRows(notify), [market]),
    () => market.version,
  );
}

const seconds = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | null = null;
let now = Date.now();

function onSecond(notify: () => void): () => void {
  seconds.add(notify);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const listener of seconds) listener();
  }, 1000);
  return () => {
    seconds.delete(notify);
    if (seconds.size === 0 && timer !== null) {
      clearInterval(timer);
      timer = null;
    }
  };
}

/** The time, in milliseconds since 1970, once a second: one timer for all. */
export function useNow(): number {
  return useSyncExternalStore(onSecond, () => now);
}

/** The time of the data in milliseconds: a replay has its own, and what is served late is behind. */
export function useDataNow(): number {
  const wall = useNow();
  const { clock, mode, delayMs } = useStatus();
  return mode === "replay" && clock !== null && clock.state !== "live" ? clock.ts / 1000 : wall - delayMs;
}

/** How trustworthy the prices on the page are, in words; null where they are live. */
export function troubleOf({ state, error, feeds, mode, clock }: Status): string | null {
  if (state === "closed" || state === "waiting") return error === null ? "not connected" : `not connected: ${error.message}`;
  if (state === "connecting") return "connecting";
  if (mode === "replay" && clock?.state !== "live") return null;
  const bad = Object.entries(feeds).filter(([, feed]) => feed.state !== "live");
  return bad.length === 0 ? null : bad.map(([name, feed]) => `feed ${name} is ${feed.state}`).join(", ");
}

export function useHash(): string {
  const [hash, setHash] = useState(() => location.hash);
  useEffect(() => {
    const changed = (): void => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return hash;
}
