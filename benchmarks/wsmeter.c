// wsmeter: open WebSocket connections to 127.0.0.1, send each its first message, read all they get, and count it. It also
// reads the server's CPU time and memory from /proc, at the very moments at which its counting starts and ends.
//   cc -O2 -o wsmeter wsmeter.c && ./wsmeter -n CLIENTS -p PORT -f SPEC -w WARM_S -s SECONDS [-P PID] [-l]
// SPEC holds one line a connection: PATH, a tab, and the text message to send once all are connected (may be empty).
// What comes in WARM_S after that is not counted. With -l it also times each `update`: from the message's own `ts`, and from
// the `ts` of each of its items, to the return of the read(2) that completed it, on the clock of the same machine.
// Prints one JSON line. Items are counted in messages that are `update`s, and in those that have no type: one item each.
// It costs far less CPU than any server under test; pin it to another core.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 96, BUCKETS = 2000000 };  // a message's first bytes are kept: its type, and all of a short one
enum { OTHER, UPDATE, SNAPSHOT, SLOW, HEARTBEAT, BARE, TYPES };

typedef struct {
  int fd, hlen, text_len, type;
  uint64_t left, size, braces;
  unsigned char head[14];
  char text[HEAD + 1];
  char *whole;  // with -l: the payload so far
  size_t whole_len, whole_cap;
} Conn;

static uint64_t frames[TYPES], items[TYPES], payload[TYPES], bytes, closed, skipped, early, late;
static uint32_t *by_round, *by_tick;  // microseconds -> how many
static int timing;
static long received_us;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static long wall_us(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec * 1000000L + t.tv_nsec / 1000; }
static void die(const char *why, int i) { fprintf(stderr, "wsmeter: %s (connection %d): %s\n", why, i, strerror(errno)); exit(1); }

// User plus system time of a process, all threads, in seconds (proc(5), stat); 0 without a process.
static double cpu_of(int pid) {
  char path[64], b[1024];
  if (!pid) return 0;
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? 0 : read(fd, b, sizeof b - 1);
  if (n <= 0) die("the server is gone", -1);
  close(fd);
  b[n] = 0;
  unsigned long user, kernel;
  if (sscanf(strrchr(b, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2) die("stat", -1);
  return (double)(user + kernel) / sysconf(_SC_CLK_TCK);
}

static long rss_of(int pid) {
  char path[64]; long pages = 0;
  if (!pid) return 0;
  snprintf(path, sizeof path, "/proc/%d/statm", pid);
  FILE *f = fopen(path, "r");
  if (!f || fscanf(f, "%*d %ld", &pages) != 1) die("the server is gone", -1);
  fclose(f);
  return pages * sysconf(_SC_PAGESIZE);
}

static void time_from(uint32_t *buckets, const char *digits) {
  long d = received_us - strtol(digits, 0, 10);
  if (d < 0) { early++; d = 0; }
  if (d >= BUCKETS) { late++; d = BUCKETS - 1; }
  buckets[d]++;
}

static void time_update(Conn *c) {
  c->whole[c->whole_len] = 0;
  uint32_t *to = by_round;
  for (char *p = c->whole; (p = strstr(p, "\"ts\":")); to = by_tick) time_from(to, p += 5);
}

static int type_of(const char *text) {
  if (strncmp(text, "{\"type\":\"", 9)) return BARE;
  text += 9;
  return !strncmp(text, "update\"", 7) ? UPDATE : !strncmp(text, "snapshot\"", 9) ? SNAPSHOT : !strncmp(text, "slow\"", 5) ? SLOW
       : !strncmp(text, "heartbeat\"", 10) ? HEARTBEAT : OTHER;
}

static void ended(Conn *c) {
  if ((c->head[0] & 15) != 1) return;  // not a text message
  int type = c->type;
  frames[type]++;
  payload[type] += c->size;
  items[type] += type == BARE ? 1 : (type == UPDATE || type == SNAPSHOT) && c->braces ? c->braces - 1 : 0;
  if (type == SLOW) { char *s = strstr(c->text, "\"skipped\":"); skipped += s ? strtoul(s + 10, 0, 10) : 0; }
  if (timing && type == UPDATE) time_update(c);
}

// Walk the frames in p[0..n): headers are gathered byte by byte across reads, payloads counted where they lie.
static void count(Conn *c, unsigned char *p, ssize_t n) {
  while (n > 0) {
    if (c->left) {
      uint64_t k = c->left < (uint64_t)n ? c->left : (uint64_t)n;
      if (c->text_len < HEAD) {
        int room = HEAD - c->text_len, take = k < (uint64_t)room ? (int)k : room;
        memcpy(c->text + c->text_len, p, take);
        c->text[c->text_len += take] = 0;
        c->type = type_of(c->text);
      }
      if (timing) { memcpy(c->whole + c->whole_len, p, k); c->whole_len += k; }
      if (c->type == UPDATE || c->type == SNAPSHOT || c->text_len < 20)
        for (unsigned char *q = p, *e = p + k; (q = memchr(q, '{', e - q)); q++) c->braces++;
      c->left -= k; p += k; n -= k;
      if (!c->left) ended(c);
      continue;
    }
    c->head[c->hlen++] = *p++; n--;
    if (c->hlen < 2) continue;
    int len7 = c->head[1] & 127, want = len7 < 126 ? 2 : len7 == 126 ? 4 : 10;
    if (c->hlen < want) continue;
    uint64_t len = len7;
    if (want > 2) { len = 0; for (int i = 2; i < want; i++) len = len << 8 | c->head[i]; }
    c->left = c->size = len; c->hlen = c->text_len = c->type = 0; c->braces = c->whole_len = 0; c->text[0] = 0;
    if (timing && len + 1 > c->whole_cap) { c->whole_cap = 2 * len + 1; if (!(c->whole = realloc(c->whole, c->whole_cap))) die("memory", -1); }
    if (!len) ended(c);
  }
}

static const char *header = "";

static void upgrade(int fd, const char *path, int i) {
  static char b[65536];
  int l = snprintf(b, sizeof b, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n", path, header, *header ? "\r\n" : "");
  if (write(fd, b, l) != l) die("write", i);
  for (l = 0; l < 4 || memcmp(b + l - 4, "\r\n\r\n", 4); l++) if (read(fd, b + l, 1) != 1) die("handshake", i);
  b[l] = 0;
  if (strncmp(b + 9, "101", 3)) { fprintf(stderr, "wsmeter: no upgrade: %.80s\n", b); exit(1); }
}

static void send_text(int fd, const char *text, int i) {
  static unsigned char f[70000];
  int n = strlen(text), o = 0;
  f[o++] = 0x81;
  if (n < 126) f[o++] = 0x80 | n; else { f[o++] = 0x80 | 126; f[o++] = n >> 8; f[o++] = n & 255; }
  unsigned char mask[4] = {1, 2, 3, 4};
  memcpy(f + o, mask, 4); o += 4;
  for (int k = 0; k < n; k++) f[o++] = text[k] ^ mask[k & 3];
  if (write(fd, f, o) != o) die("send", i);
}

static void read_for(int ep, double until) {
  static unsigned char buf[1 << 18];
  struct epoll_event ev[512];
  do {
    double wait = until - now();
    int k = epoll_wait(ep, ev, 512, wait <= 0 ? 0 : wait > .1 ? 100 : (int)(wait * 1e3) + 1);
    for (int i = 0; i < k; i++) {
      Conn *c = ev[i].data.ptr;
      ssize_t r = read(c->fd, buf, sizeof buf);
      if (timing) received_us = wall_us();
      if (r > 0) { bytes += r; count(c, buf, r); }
      else if (r == 0 || errno != EAGAIN) { closed++; close(c->fd); }
    }
  } while (now() < until);
}

static void print_times(const char *name, const uint32_t *buckets) {
  static const double parts[] = {.5, .9, .99, .999, 1};
  uint64_t total = 0, below = 0;
  for (int i = 0; i < BUCKETS; i++) total += buckets[i];
  printf(",\"%s\":{\"count\":%lu", name, (unsigned long)total);
  for (int i = 0, q = 0; i < BUCKETS && q < 5; i++)
    for (below += buckets[i]; q < 5 && total && below >= parts[q] * total; q++) printf(",\"p%g\":%d", parts[q] * 100, i);
  printf("}");
}

int main(int argc, char **argv) {
  int n = 0, port = 0, pid = 0, option, ep = epoll_create1(0);
  double warm = 1, secs = 0;
  const char *path = 0;
  while ((option = getopt(argc, argv, "n:p:f:w:s:P:H:l")) > 0) switch (option) {
    case 'n': n = atoi(optarg); break;
    case 'p': port = atoi(optarg); break;
    case 'f': path = optarg; break;
    case 'w': warm = atof(optarg); break;
    case 's': secs = atof(optarg); break;
    case 'P': pid = atoi(optarg); break;
    case 'H': header = optarg; break;
    case 'l': timing = 1; break;
    default: return 2;
  }
  FILE *spec = path ? fopen(path, "r") : 0;
  if (n < 1 || !port || secs <= 0 || !spec) { fprintf(stderr, "usage: wsmeter -n CLIENTS -p PORT -f SPEC -w WARM_S -s SECONDS [-P PID] [-H HEADER] [-l]\n"); return 2; }
  by_round = calloc(BUCKETS, sizeof *by_round);
  by_tick = calloc(BUCKETS, sizeof *by_tick);
  static char line[65536];
  Conn *conns = calloc(n, sizeof *conns);
  char **texts = calloc(n, sizeof *texts);
  double began = now();
  long rss_idle = rss_of(pid);
  for (int i = 0; i < n; i++) {
    if (!fgets(line, sizeof line, spec)) die("spec too short", i);
    line[strcspn(line, "\n")] = 0;
    char *text = strchr(line, '\t');
    if (text) *text++ = 0;
    texts[i] = text ? strdup(text) : 0;
    Conn *c = conns + i;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 30};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (void *)&a, sizeof a)) die("connect", i);
    upgrade(c->fd, line, i);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    if (i % 64 == 63) read_for(ep, 0);
  }
  double connect_s = now() - began;
  read_for(ep, now() + .2);
  long rss_connected = rss_of(pid);
  for (int i = 0; i < n; i++) {
    if (texts[i] && *texts[i]) send_text(conns[i].fd, texts[i], i);
    if (i % 64 == 63) read_for(ep, 0);
  }
  read_for(ep, now() + warm);
  uint64_t closed_before = closed;
  memset(frames, 0, sizeof frames); memset(items, 0, sizeof items); memset(payload, 0, sizeof payload);
  bytes = skipped = early = late = 0;
  memset(by_round, 0, BUCKETS * sizeof *by_round); memset(by_tick, 0, BUCKETS * sizeof *by_tick);
  double cpu = cpu_of(pid), start = now();
  read_for(ep, start + secs);
  double d = now() - start;
  cpu = cpu_of(pid) - cpu;
  struct rusage own;
  getrusage(RUSAGE_SELF, &own);
  printf("{\"connections\":%d,\"connect_s\":%.3f,\"seconds\":%.4f,\"cpu_s\":%.2f,\"bytes\":%lu,\"closed\":%lu,\"closed_before\":%lu,\"skipped\":%lu",
         n, connect_s, d, cpu, (unsigned long)bytes, (unsigned long)(closed - closed_before), (unsigned long)closed_before, (unsigned long)skipped);
  static const char *names[] = {"other", "update", "snapshot", "slow", "heartbeat", "bare"};
  for (int t = 0; t < TYPES; t++)
    printf(",\"%s\":{\"frames\":%lu,\"items\":%lu,\"bytes\":%lu}", names[t], (unsigned long)frames[t], (unsigned long)items[t], (unsigned long)payload[t]);
  printf(",\"rss_idle\":%ld,\"rss_connected\":%ld,\"rss\":%ld", rss_idle, rss_connected, rss_of(pid));
  printf(",\"meter_cpu_s\":%.3f", own.ru_utime.tv_sec + own.ru_utime.tv_usec * 1e-6 + own.ru_stime.tv_sec + own.ru_stime.tv_usec * 1e-6);
  if (timing) { printf(",\"early\":%lu,\"late\":%lu", (unsigned long)early, (unsigned long)late); print_times("round_us", by_round); print_times("tick_us", by_tick); }
  printf("}\n");
}
