/** React: a feed for all below a provider, and hooks that render only what has changed. */

import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { connect, type Feed, type FeedOptions, type Status } from "./feed.ts";
import type { Field, Quote } from "./protocol.ts";

const FeedContext = createContext<Feed | null>(null);

export interface TickerProviderProps {
  /** A feed of one's own, which is left open; else `url` is connected to, and closed with the provider. */
  feed?: Feed;
  url?: string;
  options?: FeedOptions;
  children?: ReactNode;
}

export function TickerProvider({ feed, url = "", options, children }: TickerProviderProps): ReactNode {
  const [own, setOwn] = useState<Feed | null>(null);
  const first = useRef(options);
  useEffect(() => {
    if (feed !== undefined) return undefined;
    const opened = connect(url, { frames: true, ...first.current });
    setOwn(opened);
    return () => {
      opened.close();
      setOwn(null);
    };
  }, [feed, url]);
  const value = feed ?? own;
  return value === null ? null : <FeedContext.Provider value={value}>{children}</FeedContext.Provider>;
}

/** The feed of the provider above. */
export function useFeed(): Feed {
  const feed = useContext(FeedContext);
  if (feed === null) throw new Error("expected a <TickerProvider> above");
  return feed;
}

export interface TickerOptions {
  fields?: readonly Field[];
  intervalMs?: number;
}

const NO_QUOTES: ReadonlyMap<string, Quote> = new Map();

/** The quotes of `symbols`, names or patterns: another map whenever one of them has changed. */
export function useTicker(symbols: readonly string[], options: TickerOptions = {}): ReadonlyMap<string, Quote> {
  const feed = useFeed();
  // Lists and options are compared by what is in them: who writes them in place gets no new subscription each time.
  const names = JSON.stringify(symbols);
  const terms = JSON.stringify(options);
  const store = useMemo(() => new QuoteStore(feed, JSON.parse(names) as string[], JSON.parse(terms) as TickerOptions), [feed, names, terms]);
  return useSyncExternalStore(store.subscribe, store.read, () => NO_QUOTES);
}

class QuoteStore {
  #quotes = NO_QUOTES;
  #changed = new Map<string, Quote>();

  constructor(
    private readonly feed: Feed,
    private readonly symbols: readonly string[],
    private readonly options: TickerOptions,
  ) {}

  readonly subscribe = (notify: () => void): (() => void) => {
    let told = false;
    const subscription = this.feed.subscribe(
      this.symbols,
      (quote) => {
        this.#changed.set(quote.symbol, quote);
        if (told) return;
        told = true;
        queueMicrotask(() => {
          told = false;
          notify();
        });
      },
      this.options,
    );
    return () => subscription.close();
  };

  readonly read = (): ReadonlyMap<string, Quote> => {
    if (this.#changed.size > 0) {
      this.#quotes = new Map([...this.#quotes, ...this.#changed]);
      this.#changed.clear();
    }
    return this.#quotes;
  };
}

/** The quote of one symbol. */
export function useQuote(symbol: string, options: TickerOptions = {}): Quote | undefined {
  const feed = useFeed();
  const terms = JSON.stringify(options);
  const subscribe = useCallback(
    (notify: () => void) => {
      const subscription = feed.subscribe([symbol], notify, JSON.parse(terms) as TickerOptions);
      return () => subscription.close();
    },
    [feed, symbol, terms],
  );
  return useSyncExternalStore(subscribe, () => feed.quote(symbol), () => undefined);
}

/** How the connection is. */
export function useStatus(): Status {
  const feed = useFeed();
  return useSyncExternalStore(
    useCallback((notify: () => void) => feed.onStatus(notify), [feed]),
    () => feed.status,
    () => feed.status,
  );
}
