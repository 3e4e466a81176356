export type { Clock, Notice } from "./dialogue.ts";
export { connect, Feed } from "./feed.ts";
export type {
  ConnectionState,
  FeedOptions,
  LiveBar,
  Source,
  Stats,
  Status,
  Subscription,
  SymbolEntry,
  TransportName,
} from "./feed.ts";
export { FIELDS } from "./protocol.ts";
export type { Bar, BarInterval, Channel, ClockState, FeedState, Field, Gap, Quote, Trade } from "./protocol.ts";
export type { Surroundings } from "./transports/link.ts";
