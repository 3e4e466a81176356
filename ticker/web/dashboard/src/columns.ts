/** The columns of the watch list: what each shows, and what it is sorted by. Pure. */

import type { Quote } from "@ticker/sdk";

export type ColumnId = "bid" | "ask" | "spread" | "last" | "change" | "spark" | "high" | "low" | "volume" | "age";

export interface Column {
  readonly id: ColumnId;
  readonly label: string;
  /** What rows are sorted by; null where there is nothing to. */
  readonly value: ((quote: Quote) => number | null | undefined) | null;
}

export const COLUMNS: readonly Column[] = [
  { id: "last", label: "Last", value: (quote) => quote.last },
  { id: "change", label: "Change", value: (quote) => quote.change_pct },
  { id: "spark", label: "Trend", value: null },
  { id: "bid", label: "Bid", value: (quote) => quote.bid },
  { id: "ask", label: "Ask", value: (quote) => quote.ask },
  { id: "spread", label: "Spread", value: spread },
  { id: "high", label: "High", value: (quote) => quote.high },
  { id: "low", label: "Low", value: (quote) => quote.low },
  { id: "volume", label: "Volume", value: (quote) => quote.volume },
  { id: "age", label: "Tick", value: (quote) => quote.ts },
];

export const SHOWN_AT_FIRST: readonly ColumnId[] = ["last", "change", "spark", "bid", "ask", "spread", "volume", "age"];

export interface Sort {
  readonly by: ColumnId | "symbol";
  readonly down: boolean;
}

export function spread(quote: Quote): number | null {
  return quote.bid == null || quote.ask == null ? null : quote.ask - quote.bid;
}

/** Symbols by a column; those without a value last, whichever way; equal ones as they were. */
export function sorted(symbols: readonly string[], sort: Sort | null, quoteOf: (symbol: string) => Quote | undefined): readonly string[] {
  if (sort === null) return symbols;
  const sign = sort.down ? -1 : 1;
  if (sort.by === "symbol") return [...symbols].sort((a, b) => sign * (a < b ? -1 : a > b ? 1 : 0));
  const value = COLUMNS.find(({ id }) => id === sort.by)?.value;
  if (value == null) return symbols;
  const keys = new Map(symbols.map((symbol) => [symbol, valueOf(value, quoteOf(symbol))]));
  return [...symbols].sort((a, b) => {
    const [x, y] = [keys.get(a) ?? null, keys.get(b) ?? null];
    if (x === null || y === null) return (x === null ? 1 : 0) - (y === null ? 1 : 0);
    return sign * (x - y);
  });
}

function valueOf(value: NonNullable<Column["value"]>, quote: Quote | undefined): number | null {
  return quote === undefined ? null : (value(quote) ?? null);
}

/** Read what was kept: columns that there are, in the order in which they were chosen. */
export function readColumns(value: unknown): readonly ColumnId[] {
  if (!Array.isArray(value)) return SHOWN_AT_FIRST;
  const known = new Set<unknown>(COLUMNS.map(({ id }) => id));
  const chosen = value.filter((id): id is ColumnId => known.has(id));
  return chosen.length > 0 ? [...new Set(chosen)] : SHOWN_AT_FIRST;
}
