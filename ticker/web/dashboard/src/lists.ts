/** Watch lists: what is in them and how they change. Pure; kept by `storage.ts`, shared by `share.ts`. */

export interface WatchList {
  readonly name: string;
  readonly symbols: readonly string[];
}

export interface Lists {
  readonly lists: readonly WatchList[];
  readonly active: number;
}

export const SYMBOLS_MAX = 1000;
export const LISTS_MAX = 50;
export const NAME_CHARS_MAX = 40;

/** 1 to 64 printable ASCII characters without space, comma, quotes or backslash: what a server takes for a symbol. */
export function isSymbol(text: string): boolean {
  return /^[!#-&(-+\--[\]-~]{1,64}$/.test(text);
}

export type ListsAction =
  | { type: "add"; symbols: readonly string[] }
  | { type: "remove"; symbol: string }
  | { type: "move"; symbol: string; by: number }
  | { type: "place"; symbol: string; before: string | null }
  | { type: "select"; index: number }
  | { type: "create"; name: string; symbols: readonly string[] }
  | { type: "rename"; name: string }
  | { type: "delete" }
  | { type: "replace"; lists: Lists };

export function change(state: Lists, action: ListsAction): Lists {
  const list = state.lists[state.active];
  const withSymbols = (symbols: readonly string[]): Lists => ({
    ...state,
    lists: state.lists.map((held, at) => (at === state.active ? { ...held, symbols } : held)),
  });
  switch (action.type) {
    case "replace":
      return action.lists;
    case "select":
      return action.index in state.lists ? { ...state, active: action.index } : state;
    case "create": {
      if (state.lists.length >= LISTS_MAX) return state;
      const made = { name: freeName(state.lists, action.name), symbols: distinct(action.symbols) };
      return { lists: [...state.lists, made], active: state.lists.length };
    }
  }
  if (list === undefined) return state;
  switch (action.type) {
    case "add":
      return withSymbols(distinct([...list.symbols, ...action.symbols]));
    case "remove":
      return withSymbols(list.symbols.filter((symbol) => symbol !== action.symbol));
    case "move": {
      const from = list.symbols.indexOf(action.symbol);
      const to = Math.max(0, Math.min(list.symbols.length - 1, from + action.by));
      if (from < 0 || from === to) return state;
      const symbols = list.symbols.filter((symbol) => symbol !== action.symbol);
      symbols.splice(to, 0, action.symbol);
      return withSymbols(symbols);
    }
    case "place": {
      if (action.before === action.symbol || !list.symbols.includes(action.symbol)) return state;
      const symbols = list.symbols.filter((symbol) => symbol !== action.symbol);
      const at = action.before === null ? -1 : symbols.indexOf(action.before);
      symbols.splice(at < 0 ? symbols.length : at, 0, action.symbol);
      return withSymbols(symbols);
    }
    case "rename": {
      const others = state.lists.filter((_, at) => at !== state.active);
      const name = freeName(others, action.name);
      return { ...state, lists: state.lists.map((held, at) => (at === state.active ? { ...held, name } : held)) };
    }
    case "delete": {
      if (state.lists.length < 2) return state;
      const lists = state.lists.filter((_, at) => at !== state.active);
      return { lists, active: Math.min(state.active, lists.length - 1) };
    }
  }
}

function distinct(symbols: readonly string[]): string[] {
  return [...new Set(symbols)].filter(isSymbol).slice(0, SYMBOLS_MAX);
}

/** `name`, or with a number behind it where another list has it. */
export function freeName(lists: readonly WatchList[], name: string): string {
  const wanted = name.trim().slice(0, NAME_CHARS_MAX) || "List";
  const taken = new Set(lists.map((list) => list.name));
  for (let number = 2, free = wanted; ; free = `${wanted} ${number++}`) if (!taken.has(free)) return free;
}

/** What was kept, where that is what it should be; null for anything else. */
export function readLists(value: unknown): Lists | null {
  if (typeof value !== "object" || value === null || !("lists" in value) || !Array.isArray(value.lists)) return null;
  const lists = value.lists.flatMap((list: unknown) => {
    if (typeof list !== "object" || list === null || !("name" in list) || !("symbols" in list)) return [];
    const { name, symbols } = list;
    if (typeof name !== "string" || !Array.isArray(symbols)) return [];
    return [{ name: name.slice(0, NAME_CHARS_MAX), symbols: distinct(symbols.filter((symbol) => typeof symbol === "string")) }];
  });
  if (lists.length === 0) return null;
  const active = "active" in value && typeof value.active === "number" && value.active in lists ? value.active : 0;
  return { lists: lists.slice(0, LISTS_MAX), active };
}
