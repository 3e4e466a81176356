/** A watch list as an address: `#list=Majors&symbols=A,B`. Pure. */

import { isSymbol, NAME_CHARS_MAX, SYMBOLS_MAX, type WatchList } from "./lists";

export function shared(hash: string): WatchList | null {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const symbols = [...new Set((query.get("symbols") ?? "").split(","))].filter(isSymbol).slice(0, SYMBOLS_MAX);
  if (symbols.length === 0) return null;
  return { name: (query.get("list") ?? "").trim().slice(0, NAME_CHARS_MAX) || "Shared", symbols };
}

export function addressOf(list: WatchList, page: string): string {
  const query = new URLSearchParams({ list: list.name, symbols: list.symbols.join(",") });
  return `${page.replace(/#.*$/, "")}#${query}`;
}
